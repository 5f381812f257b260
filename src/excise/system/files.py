"""Files and folders that appear whole or not at all, and are on the disk before they take their name."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from excise.errors import SaveError, first_line

FurtherFiles = Callable[[Path], Mapping[str, str]]
"""Given a new folder before it takes its name, whole but for them: texts of further files, by name."""

_TRIES = 5
"""How often a name is taken before "permission denied" is believed."""


def write_error(path: Path, error: BaseException, left: Path | None = None) -> SaveError:
    """The line for what could not be written. left: what could not be cleared away either, if it is there."""
    left_behind = [one for one in (left, path) if one is not None and _in_the_way(one, path)]
    behind = (
        f"{left_behind[0]} is left behind; delete it" if left_behind else "nothing was left behind"
    )
    return SaveError(f"{path}: could not be written ({first_line(error)}); {behind}")


def _in_the_way(remains: Path, path: Path) -> bool:
    """Whether it is there and was not before. A file named `path` is the one that was to be replaced."""
    try:
        return any(remains.iterdir()) if remains.is_dir() else remains != path and remains.exists()
    except OSError:
        return True


def flush(path: Path) -> None:
    """Have the content of a file on the disk. Raises OSError."""
    # Windows flushes only what is open for writing.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Have a folder's own entries on the disk, where folders can be opened for that. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # So on Windows, which writes entries in order by itself; and where a folder may not be listed.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems keep no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def move_into_place(temporary: Path, path: Path) -> None:
    """Give `path` what lies under the name `temporary`, and have that on the disk. Raises OSError.

    An empty folder under the name `path` makes way for a folder.
    """
    if temporary.is_dir() and path.is_dir():
        # Windows renames onto no folder, not even an empty one.
        path.rmdir()
    for tries_left in reversed(range(_TRIES)):
        try:
            os.replace(temporary, path)
            break
        except PermissionError:
            # Windows does not rename onto a file while anybody has it open, a virus scanner or a reader.
            if tries_left == 0:
                raise
            time.sleep(0.02)
    try:
        flush_folder(path.parent)
    except OSError:
        if path.is_dir():
            # So that it is cleared away as whatever else could not be written.
            os.replace(path, temporary)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and is on disk then.

    Raises SaveError, with the system's reason, if it cannot be written; what was there before stays as it
    is, and nothing else is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    """Write a file that appears whole or not at all. Raises SaveError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def require_free(path: Path) -> None:
    """Raise SaveError if `path` exists and is not an empty folder, or is the working directory."""
    if not path.name:
        raise SaveError(f"{path}: something new needs a name of its own; name a folder in it")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SaveError(f"{path}: already exists and is not empty; choose another name")


def next_free(path: Path) -> Path:
    """The first of path-2, path-3, … that does not exist."""
    path = path if path.name else path.absolute()
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and is on disk then.

    Raises SaveError if `path` exists and is not an empty folder, or if anything cannot be written (a
    full disk, say); nothing half-written is left under either name.
    """
    require_free(path)
    temporary: Path | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(
                tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            )
            yield temporary
            # mkdtemp makes folders that only their owner can read; a model is made to be shared.
            temporary.chmod(0o755)
            flush_all(temporary)
            move_into_place(temporary, path)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise write_error(path, error, temporary) from error


def flush_all(folder: Path) -> None:
    """Have every file below a folder on the disk, and the folders. Raises OSError."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            flush(path)
    flush_folder(folder)
