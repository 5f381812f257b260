"""A disk that fails, or a process that is killed, at the n-th thing done to files below a folder.

Everything that changes files goes through these calls of Python: opening for writing, writing, truncating,
flushing, renaming, deleting, making folders. They are counted, and the n-th of them fails, or kills.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_REFUSED = {
    "open": (errno.EACCES, errno.ENOSPC, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO),
    "flush": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.EIO, errno.ENOSPC),
    "mkdir": (errno.EACCES, errno.ENOSPC),
    "unlink": (errno.EACCES, errno.EIO),
    "truncate": (errno.EIO,),
}
"""What the system may answer to each operation; taken in turn."""


@dataclass
class FaultyDisk:
    """Counts operations below `folder`, and acts at one of them.

    at: which, from 0 on; None to count only. stays: every later one fails too, as of a disk that stays full.
    code: of the error that was given last, if any was.
    kill: the process is killed in place of an error; then there are three moments to each write: before it,
    when half of it is done, and after it.
    """

    folder: Path
    at: int | None = None
    stays: bool = False
    kill: bool = False
    done: list[tuple[str, str]] = field(default_factory=list)
    code: int | None = None

    def moment(self, operation: str, path: Path) -> None:
        """Count one; raises OSError, or ends the process, if it is its turn."""
        number = len(self.done)
        self.done.append((operation, path.name))
        if self.at is None or number < self.at or (number > self.at and not self.stays):
            return
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        answers = _REFUSED[operation]
        self.code = answers[self.at % len(answers)]
        raise OSError(self.code, os.strerror(self.code), str(path))

    def kinds(self) -> Counter[str]:
        """How often each operation was done."""
        return Counter(operation for operation, _ in self.done)

    def holds(self, path: object) -> bool:
        """Whether this is a path below the folder."""
        if not isinstance(path, str | os.PathLike):
            return False
        return Path(os.path.abspath(path)).is_relative_to(self.folder)

    @contextmanager
    def used(self) -> Iterator[FaultyDisk]:
        """Have the calls of this block counted."""
        with pytest.MonkeyPatch.context() as patch:
            self._patch_opening(patch)
            self._patch_descriptors(patch)
            for name, operation in (
                ("mkdir", "mkdir"),
                ("rmdir", "unlink"),
                ("unlink", "unlink"),
                ("remove", "unlink"),
                ("rename", "rename"),
                ("replace", "rename"),
            ):
                patch.setattr(os, name, self._counted(getattr(os, name), operation))
            yield self

    def _counted(self, call: Callable[..., Any], operation: str) -> Callable[..., Any]:
        def counted(path: Any, *rest: Any, **named: Any) -> Any:
            if self.holds(path):
                self.moment(operation, Path(path))
            return call(path, *rest, **named)

        return counted

    def _patch_opening(self, patch: pytest.MonkeyPatch) -> None:
        real = builtins.open

        def opened(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            **further: Any,
        ) -> Any:
            if not set(mode) & set("wax+") or not self.holds(file):
                return real(file, mode, buffering, encoding, errors, newline, **further)
            self.moment("open", Path(file))
            raw = _Raw(self, Path(file), mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return (
                buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)
            )

        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)

    def _patch_descriptors(self, patch: pytest.MonkeyPatch) -> None:
        opened, flush = os.open, os.fsync

        def open_descriptor(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR) and self.holds(path):
                self.moment("open", Path(path))
            return opened(path, flags, *rest, **named)

        def flushed(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not self.holds(path):
                flush(descriptor)
            else:
                # Not flushed in truth: nobody pulls the plug, and it takes most of the time.
                self.moment("flush", path)

        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "fsync", flushed)


def forked(call: Callable[[], object]) -> int:
    """Begin `call` in a process of its own, silent, with all that is imported here; returns its number."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            returned = call()
            status = returned if isinstance(returned, int) else 0
        finally:
            os._exit(status)
    return process


def status_of(process: int) -> int:
    """How a forked process ended: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class _Raw(io.FileIO):
    """A file whose writes are counted, and torn where they fail."""

    def __init__(self, disk: FaultyDisk, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._place = disk, path

    def write(self, content: Any) -> int:
        whole = bytes(content)
        if self._disk.kill:
            self._disk.moment("write", self._place)
        half = len(whole) // 2
        super().write(whole[:half])
        self._disk.moment("write", self._place)
        super().write(whole[half:])
        if self._disk.kill:
            self._disk.moment("write", self._place)
        return len(whole)

    def truncate(self, size: int | None = None) -> int:
        self._disk.moment("truncate", self._place)
        return super().truncate(size)
