"""A folder that is written file by file, survives being killed, and takes its name when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from excise.errors import SaveError
from excise.system.files import flush, move_into_place, require_free, write_error
from excise.system.lock import Busy, ProcessLock

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class ResumableFolder:
    """The folder being written. finished: files that an interrupted call left whole."""

    folder: Path
    finished: frozenset[str]

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write `name` under; it takes its name when the block ends well, and is on disk then."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}{_UNFINISHED}")
        yield temporary
        flush(temporary)
        move_into_place(temporary, path)


@contextmanager
def partial_file(destination: Path) -> Iterator[Path]:
    """A path beside `destination` for one file that takes that name when the block ends well.

    It is the same path each time, so that what a killed call left is written over by the next one.
    Raises SaveError if `destination` exists, if another process writes it, or if it cannot be written.
    """
    require_free(destination)
    path = partial_path(destination)
    if path.is_symlink():
        raise SaveError(f"{path}: is a link, and was not made by excise; remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            try:
                yield path
                flush(path)
                move_into_place(path, destination)
            finally:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(destination, error, path) from error


def partial_path(destination: Path) -> Path:
    """Where `destination` is written before it is whole."""
    return destination.with_name(f".{destination.name}.partial")


def mark_path(destination: Path) -> Path:
    """What stands beside a folder while it is written, and says what is being written."""
    return destination.with_name(f".{destination.name}.partial.json")


def lock_path(destination: Path) -> Path:
    """The lock of the process that writes `destination`."""
    return destination.with_name(f".{destination.name}.partial.lock")


def require_new_folder(destination: Path) -> None:
    """Raise SaveError if `destination` exists and is not an empty folder.

    If a call that wrote it was killed before it could take its mark and its lock away, that is done here.
    """
    try:
        require_free(destination)
    except SaveError:
        # Whatever stands in the way of that, it is not what is wrong.
        with suppress(OSError, SaveError):
            if destination.name and _marked(destination):
                with _alone(destination):
                    if not partial_path(destination).exists():
                        mark_path(destination).unlink(missing_ok=True)
        raise


def _marked(destination: Path) -> bool:
    return mark_path(destination).exists() or lock_path(destination).exists()


@contextmanager
def resumable_folder(destination: Path, identity: str) -> Iterator[ResumableFolder]:
    """A folder beside `destination` that takes its name when the block ends well.

    identity: what is being written. What a killed call with the same identity finished is kept, that of
    another one is thrown away. If the block raises Exception, everything is removed; if it is interrupted
    (KeyboardInterrupt) or the process is killed, finished files stay for the next call.
    Raises SaveError if `destination` exists and is not empty, if another process writes it, or if it
    cannot be written.
    """
    require_new_folder(destination)
    folder, mark = partial_path(destination), mark_path(destination)
    try:
        _require_ours(folder, mark)
        mark.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            try:
                finished = _prepared(folder, mark, identity)
                yield ResumableFolder(folder, finished)
                move_into_place(folder, destination)
                # All is done; if that fails, whoever comes next does it.
                with suppress(OSError):
                    mark.unlink(missing_ok=True)
            # Not BaseException: what Ctrl+C stopped is taken up by the next call.
            except Exception:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    mark.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise write_error(destination, error, folder) from error


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Hold the lock of whoever writes `destination`. Raises SaveError if another process has it."""
    lock = ProcessLock(lock_path(destination))
    try:
        lock.acquire()
    except Busy as busy:
        raise SaveError(
            f"{destination}: another process is writing it ({busy}); wait for it"
        ) from busy
    try:
        yield
    finally:
        lock.release()


def _require_ours(folder: Path, mark: Path) -> None:
    for path in (folder, mark):
        # Whoever made it would decide what is cleared away here, or written over.
        if path.is_symlink():
            raise SaveError(f"{path}: is a link, and was not made by excise; remove it")
    if folder.is_dir() and any(folder.iterdir()) and not mark.exists():
        raise SaveError(f"{folder}: is in the way and was not written by excise; remove it")


def _prepared(folder: Path, mark: Path, identity: str) -> frozenset[str]:
    """Clear away what is of no use; the names of the finished files that remain."""
    now = json.dumps({"writing": identity})
    same = mark.exists() and mark.read_text(encoding="utf-8", errors="replace") == now
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and not (same and path.suffix != _UNFINISHED)):
            path.unlink()
    if not same:
        # The mark before the folder: without it, what lies there is not taken for ours.
        mark.write_text(now, encoding="utf-8")
        flush(mark)
    folder.mkdir(exist_ok=True)
    return frozenset(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
