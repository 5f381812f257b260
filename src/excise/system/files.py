"""Atomic writing of files and folders: flushed to disk, then renamed; and files that Git LFS left out."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

from excise.errors import ExciseError, SaveError, first_line

FurtherFiles = Callable[[Path], Mapping[str, str]]
"""Called with a complete temporary folder before it is renamed; returns texts of further files, by name."""

_TRIES = 5
"""Attempts to rename before PermissionError is raised."""


def write_error(path: Path, error: BaseException, left: Path | None = None) -> SaveError:
    """The error for a failed write. left: a temporary path that may be left behind."""
    left_behind = [one for one in (left, path) if one is not None and _in_the_way(one, path)]
    behind = (
        f"{left_behind[0]} is left behind; delete it" if left_behind else "nothing was left behind"
    )
    return SaveError(f"{path}: could not be written ({first_line(error)}); {behind}")


def _in_the_way(remains: Path, path: Path) -> bool:
    """Whether `remains` was left behind by the failed write. An existing file at `path` is older."""
    try:
        return any(remains.iterdir()) if remains.is_dir() else remains != path and remains.exists()
    except OSError:
        return True


def flush(path: Path) -> None:
    """Flush a file to disk. Raises OSError."""
    # Windows flushes only files that are open for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flush a folder's entries to disk, if the system supports it. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows cannot open folders. Or the folder is not readable.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not support it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, replacing an empty folder, and flush. Raises OSError."""
    if temporary.is_dir() and path.is_dir():
        # Windows does not replace folders.
        path.rmdir()
    for tries_left in reversed(range(_TRIES)):
        try:
            os.replace(temporary, path)
            break
        except PermissionError:
            # Windows does not replace a file that another process, such as a virus scanner, has open.
            if tries_left == 0:
                raise
            time.sleep(0.02)
    try:
        flush_folder(path.parent)
    except OSError:
        if path.is_dir():
            # So that the caller removes the temporary folder.
            os.replace(path, temporary)
        raise


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """A temporary path, flushed and renamed to `path` if the block succeeds.

    temporary: beside `path`; by default, its name has the process's number. Raises SaveError if it cannot be
    written; an existing `path` then stays, and nothing is left behind.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            flush(temporary)
            move_into_place(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise write_error(path, error, temporary) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises SaveError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def require_free(path: Path) -> None:
    """Raise SaveError if `path` exists and is not an empty folder, or is the working directory."""
    if not path.name:
        raise SaveError(f"{path}: is not a name for a new folder; name a folder inside it")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SaveError(f"{path}: already exists and is not empty; choose another name")


def next_free(path: Path) -> Path:
    """The first path among path-2, path-3, … that does not exist."""
    path = path if path.name else path.absolute()
    candidates = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(candidate for candidate in candidates if not candidate.exists())


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which is removed at the end. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not TemporaryDirectory: it recurses without end where a folder cannot be removed (Python 3.11).
    folder = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, flushed and renamed to `path` if the block succeeds.

    Raises SaveError if `path` exists and is not an empty folder, or if writing fails; nothing is left behind.
    """
    require_free(path)
    temporary: Path | None = None
    try:
        with temporary_beside(path) as temporary:
            yield temporary
            # Temporary folders can be read by their owner only.
            temporary.chmod(0o755)
            flush_all(temporary)
            move_into_place(temporary, path)
    except (OSError, SafetensorError) as error:
        raise write_error(path, error, temporary) from error


def flush_all(folder: Path) -> None:
    """Flush all files and folders below `folder` to disk. Raises OSError."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            flush(path)
    flush_folder(folder)


_POINTER = b"version https://git-lfs.github.com/spec/"


def require_fetched(path: Path, to: type[ExciseError]) -> None:
    """Raise `to` if the file is a Git LFS pointer or cannot be opened."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
    except OSError as error:
        raise to(f"{path}: cannot be read ({first_line(error)})") from error
    if beginning == _POINTER:
        raise to(
            f"{path}: is a Git LFS pointer in place of the file; download the file with: git lfs pull"
        )
