"""A lock that one process holds on a place on the disk, and that ends with the process.

The system holds it (`flock`, or `LockFileEx` on Windows, by filelock), so that whatever ends the process ends
the lock: what a killed process leaves behind are two small files that hold nobody up.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

_PATIENCE = 0.2
"""Seconds until a lock counts as held. Where the system has none, filelock sees at the second look that it is
a dead process's."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. since: local time, to the second, with its offset from UTC."""

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """Whoever runs this, from now on."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(platform.node() or "this host", os.getpid(), now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Busy(Exception):  # noqa: N818 - it says how things stand; what is wrong is said by whoever asked
    """Another process, or another part of this one, holds the lock. holder: None if it is not known."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(str(holder or "another process"))
        self.holder = holder


class ProcessLock:
    """The lock of `path`, a file of its own; `path`.json beside it says who holds it.

    Held from `acquire` to `release`, or until the process ends. Both files are gone after `release`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        # Not of one thread: it may be released by another one than has acquired it.
        self._lock = FileLock(self.path, thread_local=False)

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def acquire(self) -> None:
        """Take the lock, or hardly wait for it. Raises Busy if it is held, OSError if it cannot be made."""
        with warnings.catch_warnings():
            # On a file system that cannot lock, filelock keeps a file that names its process instead.
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 4)
            except Timeout as error:
                if not self.path.exists():
                    # filelock takes some of what the system refuses for a lock that is held.
                    self.path.open("ab").close()
                raise Busy(self._holder()) from error
        try:
            # Not through what lies there: it may be a link.
            self._note.unlink(missing_ok=True)
            with self._note.open("x", encoding="utf-8") as note:
                json.dump(asdict(Holder.this_process()), note)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the lock; nothing happens if it is not held."""
        if not self._lock.is_locked:
            return
        for path in (self._note, self.path):
            # While it is held, so that nobody else's is taken away. Windows refuses that for the lock
            # itself, which filelock takes away there. What stays behind does no harm.
            with suppress(OSError):
                path.unlink()
        self._lock.release()

    def _holder(self) -> Holder | None:
        try:
            told = json.loads(self._note.read_text(encoding="utf-8"))
            found = Holder(str(told["host"]), int(told["pid"]), str(told["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            # Not written yet, or being written.
            return None
        here = found.host == Holder.this_process().host
        # Of a process that was killed: who holds the lock now has not written its own yet.
        return None if here and not psutil.pid_exists(found.pid) else found

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
