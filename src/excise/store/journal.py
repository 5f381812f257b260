"""The journal of a study: JSON lines from one process. They are on the disk when `append_logs` returns.

The writer holds the lock of the folder, so the file needs no lock. Optuna's own lock is a symbolic link,
which some disks do not support, and which a killed process leaves behind.

Each record has a checksum over itself and the checksum of the previous record, so that changed, lost,
repeated and moved records are detected. Optuna ignores the checksum.

Records before run format 6 have the former name of the kind `discriminant`; they are read with the present
name and stay unchanged in the file. (`open_run` refuses runs of kinds that are no longer searched.)
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from excise.errors import RunError, SaveError, first_line, translated
from excise.kinds import former_name
from excise.system.files import flush_folder, write_error
from excise.system.json_files import parse_json

_CHECKSUM = "crc"
_FORMER = former_name("discriminant")


@dataclass(frozen=True)
class _Place:
    """A position between two records. checksum: of the previous record, None without one."""

    record: int
    byte: int
    checksum: int | None


_BEGINNING = _Place(0, 0, None)


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """Optuna's journal in a file. Records are appended completely or not at all.

    Reading writes nothing, and ignores an incomplete last record.
    """

    def __init__(self, path: Path) -> None:
        """Raises SaveError if the file does not exist and cannot be created."""
        self._path = path.absolute()
        self._read: list[dict[str, Any]] = []
        self._end = _BEGINNING
        if self._path.exists():
            return
        try:
            self._path.open("ab").close()
            flush_folder(self._path.parent)
        except OSError as error:
            raise write_error(self._path, error) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from a number on. Raises RunError for a damaged record before the last."""
        self._read_on()
        yield from self._read[log_number_from:]

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Append records. Raises SaveError; then no record was appended."""
        self._read_on()
        lines, checksum = [], self._end.checksum
        for log in logs:
            checksum = _checksum(log, checksum)
            lines.append(json.dumps({**log, _CHECKSUM: checksum}, separators=(",", ":")) + "\n")
        try:
            with self._path.open("a+b", buffering=0) as file:
                # Bytes after the last record come from a failed append.
                file.truncate(self._end.byte)
                try:
                    _write(file, "".join(lines).encode())
                    os.fsync(file.fileno())
                except BaseException:
                    # If that fails too, the next append or `mend` drops the incomplete record.
                    with suppress(OSError):
                        file.truncate(self._end.byte)
                    raise
        except OSError as error:
            raise SaveError(
                f"{self._path}: could not be written ({first_line(error)}); its earlier records are kept"
            ) from error

    def _read_on(self) -> None:
        """Read the new records."""
        with translated(RunError, f"{self._path}: cannot be read", OSError):
            content = _behind(self._path, self._end.byte)
        records, self._end, problem = _parsed(content, self._end)
        self._read += records
        if problem is not None:
            raise damaged(self._path, problem)


def mend(journal: Path) -> bool:
    """Drop an incomplete last record. Returns whether it did. Raises SaveError, RunError.

    Only for a process that holds the lock of the folder: another process may be writing that record.
    """
    if not journal.exists():
        return False
    with translated(RunError, f"{journal}: cannot be read", OSError):
        content = journal.read_bytes()
    _, end, problem = _parsed(content, _BEGINNING)
    if problem is not None:
        raise damaged(journal, problem)
    if end.byte == len(content):
        return False
    with (
        translated(SaveError, f"{journal}: could not be repaired", OSError),
        journal.open("r+b") as file,
    ):
        file.truncate(end.byte)
        os.fsync(file.fileno())
    return True


def damaged(journal: Path, problem: str) -> RunError:
    """The error for a journal with a fault before its last record."""
    return RunError(f"{journal}: damaged: {problem}; start again with another store (--run-dir)")


def _parsed(content: bytes, start: _Place) -> tuple[list[dict[str, Any]], _Place, str | None]:
    """The complete records in `content`, the position after them, and a fault before the last record, if any.

    An incomplete record at the end is neither a fault nor a record.
    """
    records: list[dict[str, Any]] = []
    place, lines = start, content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            record, checksum = _record(line, place.checksum)
        except ValueError as error:
            is_last = number == len(lines) - 1
            problem = None if is_last else f"record {place.record + 1} ({first_line(error)})"
            return records, place, problem
        records.append(_renamed(record))
        place = _Place(place.record + 1, place.byte + len(line), checksum)
    return records, place, None


def _record(line: bytes, before: int | None) -> tuple[dict[str, Any], int | None]:
    """A record without its checksum, and the checksum. before: the checksum of the previous record.

    Raises ValueError if the line is not a record, or does not follow the previous record.
    """
    if not line.endswith(b"\n"):
        raise ValueError("it is cut short")
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    found = record.pop(_CHECKSUM, None)
    # Old records have no checksum; they never follow a record with a checksum.
    if found is None and before is None:
        return record, None
    if found != _checksum(record, before):
        raise ValueError("its checksum does not match")
    return record, found


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the present name of the kind `discriminant`, also inside JSON in strings."""
    text = json.dumps(record)
    if _FORMER not in text:
        return record
    renamed: dict[str, Any] = json.loads(text.replace(_FORMER, "discriminant"))
    return renamed


def _checksum(record: Mapping[str, Any], before: int | None) -> int:
    """CRC-32 of a record, continued from the checksum of the previous record."""
    return zlib.crc32(json.dumps(record, separators=(",", ":")).encode(), before or 0)


def _behind(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _write(file: FileIO, content: bytes) -> None:
    """Write the whole content, in several calls if necessary."""
    while content:
        content = content[file.write(content) or 0 :]
