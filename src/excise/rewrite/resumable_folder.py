"""A folder written file by file: an interrupted call is resumed, and only a complete folder gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from excise.errors import SaveError
from excise.system.files import flush, move_into_place, replacing, require_free, write_error
from excise.system.lock import Busy, ProcessLock

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class ResumableFolder:
    """The folder being written. finished: complete files of an interrupted call."""

    folder: Path
    finished: frozenset[str]

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A temporary path; it is flushed and renamed to `name` if the block succeeds."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}{_UNFINISHED}")
        yield temporary
        flush(temporary)
        move_into_place(temporary, path)


@contextmanager
def partial_file(destination: Path) -> Iterator[Path]:
    """A temporary path beside `destination`, renamed to it if the block succeeds.

    The path is always the same, so that a call overwrites the remains of a killed call. Raises SaveError if
    `destination` exists, if another process writes it, or if it cannot be written.
    """
    require_free(destination)
    path = partial_path(destination)
    _require_no_link(path)
    with _locked(destination), replacing(destination, path):
        yield path


def partial_path(destination: Path) -> Path:
    """The temporary path of `destination`."""
    return destination.with_name(f".{destination.name}.partial")


def mark_path(destination: Path) -> Path:
    """The file that says what is being written to `destination`."""
    return destination.with_name(f".{destination.name}.partial.json")


def require_new_folder(destination: Path) -> None:
    """Raise SaveError if `destination` exists and is not an empty folder.

    Removes mark and lock of a call that was killed after it had completed `destination`.
    """
    try:
        require_free(destination)
    except SaveError:
        # A failure to remove them is not reported: `destination` exists.
        with suppress(OSError, SaveError):
            paths = (mark_path, _lock) if destination.name else ()
            if any(path(destination).exists() for path in paths):
                with _locked(destination):
                    if not partial_path(destination).exists():
                        _remove(mark_path(destination))
        raise


@contextmanager
def resumable_folder(destination: Path, identity: str) -> Iterator[ResumableFolder]:
    """A temporary folder beside `destination`, renamed to it if the block succeeds.

    identity: of the content. Finished files of an interrupted call are kept if the identity is the same, and
    deleted otherwise. If the block raises Exception, everything is removed; after KeyboardInterrupt or a
    killed process, finished files stay for the next call.
    Raises SaveError if `destination` exists and is not empty, if another process writes it, or if it
    cannot be written.
    """
    require_new_folder(destination)
    folder, mark = partial_path(destination), mark_path(destination)
    with _locked(destination):
        _require_no_link(folder, mark)
        if folder.is_dir() and any(folder.iterdir()) and not mark.exists():
            raise SaveError(f"{folder}: exists and was not written by excise; remove it")
        try:
            finished = _prepared(folder, mark, identity)
            yield ResumableFolder(folder, finished)
            move_into_place(folder, destination)
        # Not BaseException: after Ctrl+C the next call resumes.
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            _remove(mark)
            raise
        # If this fails, the next call removes the mark.
        _remove(mark)


def _lock(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.partial.lock")


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Hold the lock for writing `destination`. Raises SaveError, also for an OSError of the block."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with ProcessLock(_lock(destination)):
            yield
    except Busy as busy:
        raise SaveError(
            f"{destination}: another process is writing it ({busy}); wait for it"
        ) from busy
    except OSError as error:
        raise write_error(destination, error, partial_path(destination)) from error


def _require_no_link(*paths: Path) -> None:
    # A link could make excise delete or overwrite other files.
    for path in paths:
        if path.is_symlink():
            raise SaveError(f"{path}: is a link, and was not made by excise; remove it")


def _remove(mark: Path) -> None:
    with suppress(OSError):
        mark.unlink(missing_ok=True)


def _prepared(folder: Path, mark: Path, identity: str) -> frozenset[str]:
    """Delete unusable files; returns the names of the remaining finished files."""
    now = json.dumps({"writing": identity})
    same = mark.exists() and mark.read_text(encoding="utf-8", errors="replace") == now
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and not (same and path.suffix != _UNFINISHED)):
            path.unlink()
    if not same:
        # The mark is written first: a folder without a mark counts as foreign.
        mark.write_text(now, encoding="utf-8")
        flush(mark)
    folder.mkdir(exist_ok=True)
    return frozenset(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
