"""The journal of a study: one JSON object a line, written by one process, and on the disk when that is said.

Each line ends with a check, the CRC-32 of itself behind the one before it, so that nothing that is changed,
lost, doubled or moved is taken for what was written. Optuna reads such a journal too: it passes over checks.

Whoever writes it holds the lock of its folder, so the file needs none of its own. Optuna's is a symbolic
link, which not every disk has, and which a killed process leaves behind.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend

from excise.errors import RunError, SaveError, first_line, translated
from excise.files import flush_folder, unwritten

_CHECKED = re.compile(rb'(?P<record>.*),"check":"(?P<check>[0-9a-f]{8})"\}\n', re.DOTALL)


@dataclass(frozen=True)
class _Place:
    """A place between two lines. offset: bytes before it. check: of the line before it, None without one."""

    offset: int = 0
    check: int | None = None


class Journal(BaseJournalBackend):  # type: ignore[misc]
    """What is appended is there whole, or not at all.

    Reading writes nothing, and leaves out a last record that is cut short or being written.
    """

    def __init__(self, path: Path) -> None:
        """Raises SaveError if the file is not there and cannot be made."""
        self._path = path.absolute()
        self._places = [_Place()]
        try:
            if not self._path.exists():
                self._path.open("ab").close()
                flush_folder(self._path.parent)
        except OSError as error:
            raise unwritten(self._path, error) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from a number on. Raises RunError if one is damaged."""
        number = min(log_number_from, len(self._places) - 1)
        place = self._places[number]
        with translated(RunError, f"{self._path}: could not be read", OSError):
            file = self._path.open("rb")
        with file:
            file.seek(place.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record, place = _read(line, place)
                except ValueError as error:
                    raise RunError(f"{self._path}: damaged (line {number + 1} {error})") from error
                number += 1
                if number == len(self._places):
                    self._places.append(place)
                if number > log_number_from:
                    yield record

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Write records behind the others. Raises SaveError; then none of them is there."""
        for _ in self.read_logs(len(self._places) - 1):
            pass
        place = self._places[-1]
        try:
            with self._path.open("r+b", buffering=0) as file:
                if file.seek(0, os.SEEK_END) > place.offset:
                    # What an append that failed could not take back.
                    file.truncate(place.offset)
                    file.seek(place.offset)
                try:
                    _write(file, _lines(logs, place.check or 0))
                    os.fsync(file.fileno())
                except BaseException:
                    # If that fails too, the next one to append or to open drops what is cut short.
                    with suppress(OSError):
                        file.truncate(place.offset)
                    raise
        except OSError as error:
            raise SaveError(
                f"{self._path}: could not be written ({first_line(error)}); what was in it is kept"
            ) from error


def mend(journal: Path) -> bool:
    """Drop a last record that is cut short or damaged; whether there was one. Raises SaveError, RunError.

    Only for a process that holds the lock of the folder: another one may be writing that record.
    """
    if not journal.exists():
        return False
    place = _Place()
    with translated(RunError, f"{journal}: could not be read", OSError), journal.open("rb") as file:
        for line in file:
            try:
                _, place = _read(line, place)
            except ValueError:
                break
        else:
            return False
        if file.read(1):
            # Damage with more behind it is no torn end: what reads it says so.
            return False
    with (
        translated(SaveError, f"{journal}: could not be mended", OSError),
        journal.open("r+b", buffering=0) as file,
    ):
        file.truncate(place.offset)
        os.fsync(file.fileno())
    return True


def _read(line: bytes, before: _Place) -> tuple[dict[str, Any], _Place]:
    """A line's record, and the place behind it. Raises ValueError, saying what is wrong with it."""
    checked = _CHECKED.fullmatch(line)
    if checked is None and before.check is not None:
        raise ValueError("lacks its check")
    # An excise that checked nothing may have begun the journal.
    text = line if checked is None else checked["record"] + b"}"
    check = None if checked is None else int(checked["check"], 16)
    if check is not None and check != zlib.crc32(text, before.check or 0):
        raise ValueError("is not what was written there")
    if not line.endswith(b"\n"):
        raise ValueError("is cut short")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError("is no JSON") from error
    if not isinstance(record, dict):
        raise ValueError("is no record")
    return record, _Place(before.offset + len(line), check)


def _lines(logs: Sequence[dict[str, Any]], check: int) -> bytes:
    lines = []
    for log in logs:
        text = json.dumps(log, separators=(",", ":")).encode()
        check = zlib.crc32(text, check)
        lines.append(text[:-1] + f',"check":"{check:08x}"}}\n'.encode())
    return b"".join(lines)


def _write(file: BinaryIO, content: bytes) -> None:
    """All of it, however much a call takes at a time."""
    while content:
        content = content[file.write(content) :]
