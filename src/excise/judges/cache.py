"""Verdicts that were paid for, kept on disk: one JSON line each."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from excise.errors import JudgeError, translated
from excise.judges.verdict import Exchange, Verdict
from excise.system.json_files import first_fault
from excise.system.lock import Busy, ProcessLock

_LINE = TypeAdapter(dict[str, str | float])


class VerdictCache:
    """The verdicts of one judge in a folder, used as a context; one process at a time.

    The key of a verdict is a digest of the judge's name, the version of its rubric, the prompt and the
    answer. A verdict is on disk as soon as it is added.
    """

    def __init__(self, folder: Path, judge: str, version: int) -> None:
        self._judge, self._version = judge, version
        name = hashlib.sha256(f"{judge}\n{version}".encode()).hexdigest()[:16]
        self._path = folder / f"{name}.jsonl"
        self._lock = ProcessLock(folder / f"{name}.lock")
        self._verdicts: dict[str, Verdict] = {}

    def __enter__(self) -> Self:
        """Read the verdicts. Raises JudgeError if another process has them open or they cannot be read."""
        with translated(JudgeError, f"{self._path}: the verdicts cannot be kept here", OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Busy as busy:
                raise JudgeError(
                    f"{self._path}: the verdicts of {self._judge} are in use by {busy}; wait for it, or give "
                    "another folder"
                ) from None
            with ExitStack() as opened:
                opened.callback(self._lock.release)
                self._file = opened.enter_context(self._path.open("a+b"))
                self._read()
                self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def get(self, exchange: Exchange) -> Verdict | None:
        """The verdict on an exchange, None if there is none."""
        return self._verdicts.get(self._key(exchange))

    def add(self, exchange: Exchange, verdict: Verdict) -> None:
        """Keep a verdict; the first on an exchange stays. Raises JudgeError if it cannot be written."""
        key = self._key(exchange)
        if key in self._verdicts:
            return
        self._verdicts[key] = verdict
        line = json.dumps({"key": key, **asdict(verdict)})
        with translated(JudgeError, f"{self._path}: cannot be written", OSError):
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    def _key(self, exchange: Exchange) -> str:
        # JSON keeps the parts apart, whatever characters they hold.
        parts = [self._judge, self._version, exchange.prompt, exchange.answer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rpartition(b"\n")[0]
        if len(whole) + 1 < len(content) or (content and not whole):
            # The last line was being written when its process ended.
            self._file.truncate(len(whole) + bool(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                values = _LINE.validate_json(line)
                verdict = TypeAdapter(Verdict).validate_python(
                    {name: values.get(name) for name in ("outcome", "probability", "reason")}
                )
                self._verdicts.setdefault(str(values["key"]), verdict)
            except (KeyError, ValidationError) as error:
                fault = first_fault(error) if isinstance(error, ValidationError) else "has no key"
                raise JudgeError(
                    f"{self._path}: line {number} is damaged ({fault}); delete the file to ask again"
                ) from error
