"""File operations as Windows refuses them, on Linux: a scope in which a file that is open stays where it is.

Windows neither renames nor deletes what a process has open or mapped into memory, puts no folder in the
place of another, opens no folders, flushes only what is open for writing, and makes links for
administrators only. The interpreter tells of such calls before it makes them (`sys.addaudithook`); what
libraries open without it shows in /proc.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

_ROOTS: list[str] = []
"""Folders in which the rules hold at the moment."""
_HOOKED: list[bool] = []


@contextmanager
def windows_files(root: Path) -> Iterator[None]:
    """A scope in which the rules hold for everything under `root`."""
    if not _HOOKED:
        # A hook stays for good, so there is one for all scopes.
        sys.addaudithook(_audit)
        _HOOKED.append(True)
    _ROOTS.append(os.path.realpath(root))
    # Without descriptors of folders, which Windows does not have.
    with patch("shutil._use_fd_functions", False), patch("os.fsync", _fsync):
        try:
            yield
        finally:
            _ROOTS.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _ROOTS:
        return
    if event == "os.rename":
        source, target = map(_inside, arguments[:2])
        _require_closed(source)
        _require_closed(target)
        if target is not None and os.path.isdir(target):
            raise PermissionError(13, "Access is denied: a folder is in the way", target)
    elif event in ("os.remove", "os.rmdir"):
        _require_closed(_inside(arguments[0]))
    elif event in ("os.symlink", "os.link") and _inside(arguments[1]) is not None:
        raise OSError(1314, "A required privilege is not held by the client", arguments[1])
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path = _inside(arguments[0])
        if path is not None and os.path.isdir(path):
            raise PermissionError(13, "Access is denied: a folder", path)


def _fsync(descriptor: int | Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    path = _inside(os.readlink(f"/proc/self/fd/{number}"))
    if path is not None:
        flags = int(Path(f"/proc/self/fdinfo/{number}").read_text("ascii").split()[3], 8)
        if flags & os.O_ACCMODE == os.O_RDONLY or stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(9, "Bad file descriptor: not open for writing", path)


def _inside(path: Any) -> str | None:
    """The whole path if the rules hold for it."""
    if isinstance(path, int):
        return None
    whole = os.path.realpath(os.fsdecode(path))
    held = any(whole == root or whole.startswith(root + os.sep) for root in _ROOTS)
    return whole if held else None


def _require_closed(path: str | None) -> None:
    # filelock tries out what a POSIX system can lock; on Windows it does something else.
    if path is None or os.path.basename(path).startswith(".filelock-probe"):
        return
    for held in _held_files():
        if held == path or held.startswith(path + os.sep):
            raise PermissionError(13, "The process cannot access the file: it is in use", held)


def _held_files() -> set[str]:
    """Files that this process has open or mapped."""
    held = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if os.path.isfile(path):
            held.add(path)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            held.add(fields[5])
    return held
