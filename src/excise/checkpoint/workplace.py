"""A folder that is written file by file, survives being killed, and takes its name when it is whole."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from excise.errors import SaveError
from excise.files import require_free

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Workplace:
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
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def unfinished_file(destination: Path) -> Iterator[Path]:
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
        with path.open("ab") as file:
            _lock(file.fileno(), destination)
            try:
                yield path
                os.fsync(file.fileno())
                os.replace(path, destination)
                _sync(destination.parent)
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(destination, error) from error


def partial_path(destination: Path) -> Path:
    """Where `destination` is written before it is whole."""
    return destination.with_name(f".{destination.name}.partial")


def mark_path(destination: Path) -> Path:
    """What stands beside a folder while it is written: what is being written, and the lock of who does."""
    return destination.with_name(f".{destination.name}.partial.json")


def require_place(destination: Path) -> None:
    """Raise SaveError if `destination` exists and is not an empty folder.

    If a call that wrote it was killed before it could take its mark away, that is done here.
    """
    try:
        require_free(destination)
    except SaveError:
        if not partial_path(destination).exists():
            mark_path(destination).unlink(missing_ok=True)
        raise


@contextmanager
def resumable_folder(destination: Path, identity: str) -> Iterator[Workplace]:
    """A folder beside `destination` that takes its name when the block ends well.

    identity: what is being written. What a killed call with the same identity finished is kept, that of
    another one is thrown away. If the block raises Exception, everything is removed; if it is interrupted
    (KeyboardInterrupt) or the process is killed, finished files stay for the next call.
    Raises SaveError if `destination` exists and is not empty, if another process writes it, or if it
    cannot be written.
    """
    require_place(destination)
    folder, mark = partial_path(destination), mark_path(destination)
    try:
        _require_ours(folder, mark)
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("a+", encoding="utf-8") as held:
            _lock(held.fileno(), destination)
            try:
                folder.mkdir(exist_ok=True)
                yield Workplace(folder, _prepared(folder, held.fileno(), identity))
                os.replace(folder, destination)
                mark.unlink(missing_ok=True)
                _sync(destination.parent)
            # Not BaseException: what Ctrl+C stopped is taken up by the next call.
            except Exception:
                shutil.rmtree(folder, ignore_errors=True)
                mark.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _unwritten(destination, error) from error


def _unwritten(destination: Path, error: OSError) -> SaveError:
    return SaveError(
        f"{destination}: could not be written ({error.strerror or error}); nothing was left behind"
    )


def _require_ours(folder: Path, mark: Path) -> None:
    for path in (folder, mark):
        # Whoever made it would decide what is cleared away here, or written over.
        if path.is_symlink():
            raise SaveError(f"{path}: is a link, and was not made by excise; remove it")
    if folder.is_dir() and any(folder.iterdir()) and not mark.exists():
        raise SaveError(f"{folder}: is in the way and was not written by excise; remove it")


def _lock(descriptor: int, destination: Path) -> None:
    busy = SaveError(f"{destination}: another process is writing it; wait for it")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    if os.fstat(descriptor).st_nlink == 0:
        # Whoever held it has ended and taken it away since it was opened here; the next one has its own.
        raise busy


def _prepared(folder: Path, descriptor: int, identity: str) -> frozenset[str]:
    """Clear away what is of no use; the names of the finished files that remain."""
    before = os.pread(descriptor, 1 << 20, 0).decode(errors="replace")
    now = json.dumps({"writing": identity})
    same = before == now
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and not (same and path.suffix != _UNFINISHED)):
            path.unlink()
    if not same:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, now.encode(), 0)
        os.fsync(descriptor)
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sync(folder: Path) -> None:
    """Have the folder's own entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
