"""The journal of a study: one JSON object a line, written by one process, and on the disk when that is said.

Whoever writes it holds the lock of its folder, so the file needs none of its own. Optuna's is a symbolic
link, which not every disk has, and which a killed process leaves behind.

Each record carries a checksum over itself and the checksum before it, so that a record that was changed,
lost, repeated or moved is noticed. Optuna reads such records as its own and ignores the checksum.

Records that were written up to run format 5 call the kind `discriminant` by its former name. They stay as
they are in the file and are read with the name of today. (`open_run` refuses runs of kinds that went.)
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
    """A place between two records. checksum: of the record before, None if that has none."""

    record: int
    byte: int
    checksum: int | None


_BEGINNING = _Place(0, 0, None)


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """Optuna's journal in a file. What is appended is there whole, or not at all.

    Reading writes nothing, and leaves out a last record that is cut short or being written.
    """

    def __init__(self, path: Path) -> None:
        """Raises SaveError if the file is not there and cannot be made."""
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
        """The records from a number on. Raises RunError if one before the last is damaged."""
        self._read_on()
        yield from self._read[log_number_from:]

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Write records behind the others. Raises SaveError; then none of them is there."""
        self._read_on()
        lines, checksum = [], self._end.checksum
        for log in logs:
            checksum = _checksum(log, checksum)
            lines.append(json.dumps({**log, _CHECKSUM: checksum}, separators=(",", ":")) + "\n")
        try:
            with self._path.open("a+b", buffering=0) as file:
                # Bytes behind the last record are what a failed append could not take back.
                file.truncate(self._end.byte)
                try:
                    _write(file, "".join(lines).encode())
                    os.fsync(file.fileno())
                except BaseException:
                    # If that fails too, the next one to open or to append drops what is cut short.
                    with suppress(OSError):
                        file.truncate(self._end.byte)
                    raise
        except OSError as error:
            raise SaveError(
                f"{self._path}: could not be written ({first_line(error)}); what was in it is kept"
            ) from error

    def _read_on(self) -> None:
        """Read the records behind those that were read already."""
        with translated(RunError, f"{self._path}: cannot be read", OSError):
            content = _behind(self._path, self._end.byte)
        records, self._end, problem = _parsed(content, self._end)
        self._read += records
        if problem is not None:
            raise damaged(self._path, problem)


def mend(journal: Path) -> bool:
    """Drop a last record that is cut short; whether there was one. Raises SaveError, RunError.

    Only for a process that holds the lock of the folder: another one may be writing that record.
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
        translated(SaveError, f"{journal}: could not be mended", OSError),
        journal.open("r+b") as file,
    ):
        file.truncate(end.byte)
        os.fsync(file.fileno())
    return True


def damaged(journal: Path, problem: str) -> RunError:
    """The refusal of a journal in which more than the last record is wrong."""
    return RunError(f"{journal}: damaged: {problem}; start anew with another --run-dir")


def _parsed(content: bytes, start: _Place) -> tuple[list[dict[str, Any]], _Place, str | None]:
    """The whole records in `content`, the place behind them, and what is wrong before the last record.

    What stands at the very end may be a record that is cut short: that is no fault, and no record.
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
    """One record without its checksum, and that. before: the checksum of the record before it.

    Raises ValueError if the line holds no record, or not the one that was written behind that one.
    """
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    found = record.pop(_CHECKSUM, None)
    # Records that were written before there were checksums have none, but none follows one that has.
    if found is None and before is None:
        return record, None
    if found != _checksum(record, before):
        raise ValueError("its checksum does not match")
    return record, found


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with today's name of the kind `discriminant`, which also stands inside JSON in strings."""
    text = json.dumps(record)
    if _FORMER not in text:
        return record
    renamed: dict[str, Any] = json.loads(text.replace(_FORMER, "discriminant"))
    return renamed


def _checksum(record: Mapping[str, Any], before: int | None) -> int:
    """CRC-32 of a record, continued from that of the record before it."""
    return zlib.crc32(json.dumps(record, separators=(",", ":")).encode(), before or 0)


def _behind(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _write(file: FileIO, content: bytes) -> None:
    """All of it, however much a call takes at a time."""
    while content:
        content = content[file.write(content) or 0 :]
