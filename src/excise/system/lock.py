"""A lock file that is released when its process ends, however it ends.

The operating system holds the lock (`flock`, or `LockFileEx` on Windows, through filelock). A killed process
leaves two small files behind, which do not block other processes.
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

import psutil
from filelock import FileLock, Timeout

_PATIENCE = 0.2
"""Seconds until a lock counts as held. On systems without locks, filelock recognises a dead process's lock at
its second attempt."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock. since: local time, to the second, with its offset from UTC."""

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """This process, with the current time."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(platform.node() or "this host", os.getpid(), now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Busy(Exception):  # noqa: N818 - a state, not an error; callers raise the error
    """Another process, or another part of this one, holds the lock. holder: None if unknown."""

    def __init__(self, holder: Holder | None) -> None:
        super().__init__(str(holder or "another process"))
        self.holder = holder


class ProcessLock:
    """A lock file at `path`; `path`.json says which process holds it.

    Held from `acquire` to `release`, or until the process ends. Both files are gone after `release`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        # Not thread-local: another thread may release the lock.
        self._lock = FileLock(self.path, thread_local=False)

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def acquire(self) -> None:
        """Acquire the lock. Raises Busy if it is held, OSError if it cannot be created."""
        with warnings.catch_warnings():
            # On a file system without locks, filelock warns and uses a file that names its process.
            warnings.simplefilter("ignore", UserWarning)
            try:
                self._lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 4)
            except Timeout as error:
                if not self.path.exists():
                    # filelock reports some errors of the system as a held lock; this raises them.
                    self.path.open("ab").close()
                raise Busy(self._holder()) from error
        try:
            # An existing note may be a link, so it is removed first.
            self._note.unlink(missing_ok=True)
            with self._note.open("x", encoding="utf-8") as note:
                json.dump(asdict(Holder.this_process()), note)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if not self._lock.is_locked:
            return
        for path in (self._note, self.path):
            # Removed while the lock is held, so that no other process's files are removed. Windows refuses
            # this for the lock file, which filelock removes there. Remaining files do no harm.
            with suppress(OSError):
                path.unlink()
        self._lock.release()

    def _holder(self) -> Holder | None:
        try:
            content = json.loads(self._note.read_text(encoding="utf-8"))
            found = Holder(str(content["host"]), int(content["pid"]), str(content["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            # The note is not written yet.
            return None
        here = found.host == Holder.this_process().host
        # The note of a killed process: the new holder has not written its note yet.
        return None if here and not psutil.pid_exists(found.pid) else found

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
