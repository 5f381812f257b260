"""The journal of a study: one JSON object a line, written by one process, and on the disk when that is said.

Whoever writes it holds the lock of its folder, so the file needs none of its own. Optuna's is a symbolic
link, which not every disk has, and which a killed process leaves behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from excise.errors import RunError, SaveError, first_line, translated
from excise.files import flush_folder, unwritten


class _Unneeded:
    """The lock of a file that only one process writes."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Journal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal file. What is appended is there whole, or not at all.

    Reading writes nothing, and leaves out a last record that is cut short or being written.
    """

    def __init__(self, path: Path) -> None:
        """Raises SaveError if the file is not there and cannot be made."""
        self._journal = path.absolute()
        try:
            is_new = not self._journal.exists()
            super().__init__(str(self._journal), lock_obj=_Unneeded())
            if is_new:
                flush_folder(self._journal.parent)
        except OSError as error:
            raise unwritten(self._journal, error) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from a number on. Raises RunError if one before the last is damaged."""
        with translated(RunError, f"{self._journal}: damaged", ValueError, OSError):
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Write records behind the others. Raises SaveError; then none of them is there."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        try:
            with self._journal.open("a+b", buffering=0) as file:
                end = _whole(file)
                try:
                    _write(file, "".join(lines).encode())
                    os.fsync(file.fileno())
                except BaseException:
                    # If that fails too, the next one to open or to append drops what is cut short.
                    with suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            raise SaveError(
                f"{self._journal}: could not be written ({first_line(error)}); what was in it is kept"
            ) from error


def mend(journal: Path) -> bool:
    """Drop a last record that is cut short; whether there was one. Raises SaveError, RunError.

    Only for a process that holds the lock of the folder: another one may be writing that record.
    """
    if not journal.exists():
        return False
    with translated(RunError, f"{journal}: could not be read", OSError):
        content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        # What a disk has of a line that it lost may be anything, an end of line too.
        last = content.rfind(b"\n", 0, max(0, end - 1)) + 1
        end = end if _is_record(content[last:]) else last
    if end == len(content):
        return False
    with (
        translated(SaveError, f"{journal}: could not be mended", OSError),
        journal.open("r+b") as file,
    ):
        file.truncate(end)
        os.fsync(file.fileno())
    return True


def _is_record(line: bytes) -> bool:
    try:
        return not line or isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _whole(file: FileIO) -> int:
    """Where the file ends, once what a failed append could not take back is gone."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if end > 0 and file.read(1) != b"\n":
        file.seek(0)
        end = file.readall().rfind(b"\n") + 1
        file.truncate(end)
    return end


def _write(file: FileIO, content: bytes) -> None:
    """All of it, however much a call takes at a time."""
    while content:
        content = content[file.write(content) or 0 :]
