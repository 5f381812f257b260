"""Judges the answers of a file, and compares the verdicts with labels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.app.model import judge_name, judge_options_of
from excise.config import Settings
from excise.errors import PromptError, first_line
from excise.events import Emit
from excise.judges.judge import verdicts_of
from excise.judges.named import JudgeName, judge_of
from excise.judges.verdict import OUTCOMES, Exchange, Judge, Outcome, Verdict
from excise.scorers.agreement import Agreement
from excise.system.json_files import parse_json
from excise.system.paths import expanded

STANDARD_INPUT = "-"
_TEST = Exchange("What is two plus two?", "Two plus two is four.")


@dataclass(frozen=True)
class AnswerRecord:
    """A line of a file of answers. values: all its keys; label: people's verdict, None without one."""

    values: Mapping[str, object]
    exchange: Exchange
    label: Outcome | None


@dataclass(frozen=True)
class Judged:
    """Records with their verdicts, in order. judge: the judge's name."""

    judge: str
    records: Sequence[AnswerRecord]
    verdicts: Sequence[Verdict]

    def as_json(self) -> Iterator[dict[str, object]]:
        """Each record's keys, and its verdict, probability and reason."""
        for record, verdict in zip(self.records, self.verdicts, strict=True):
            found = {
                "verdict": verdict.outcome,
                "probability": verdict.probability,
                "reason": verdict.reason,
            }
            yield {**record.values, **found}

    @property
    def agreement(self) -> Agreement | None:
        """The agreement on records with a label; None without labels."""
        pairs = [
            (record.label, verdict.outcome)
            for record, verdict in zip(self.records, self.verdicts, strict=True)
            if record.label is not None
        ]
        return Agreement.of(pairs) if pairs else None


def judge_answers(settings: Settings, answers: str, cache: Path | None, emit: Emit) -> Judged:
    """Judge a file of answers with the judge that the settings name.

    answers: a path, or "-" for standard input; each line is a JSON object with the texts `prompt` and
    `answer`. cache: the folder of verdicts that cost much; None for the user's cache folder. Raises
    PromptError for a file or line that cannot be read, and what `judge_of` and the judge raise.
    """
    records = read_records(answers)
    judge = judge_from(settings, cache or user_cache(), emit)
    verdicts = verdicts_of(judge, [record.exchange for record in records], emit)
    return Judged(judge.name, records, verdicts)


def judge_from(settings: Settings, cache: Path | None, emit: Emit) -> Judge:
    """The judge of the settings, see `judge_name`."""
    return judge_of(judge_name(settings), judge_options_of(settings, cache), emit)


def ready_judge(settings: Settings, cache: Path, emit: Emit) -> Judge:
    """The judge of the settings. A chat model is asked once, so that slow work does not precede its failure.

    Raises what `judge_of` raises, and JudgeError if the chat model cannot be asked.
    """
    judge = judge_from(settings, cache, emit)
    if JudgeName.parse(judge_name(settings)).kind in ("llm", "openai"):
        verdicts_of(judge, [_TEST], emit)
    return judge


def user_cache() -> Path:
    """The folder of cached verdicts: excise/judges in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excise" / "judges"


def read_records(answers: str) -> list[AnswerRecord]:
    """The records of a JSON Lines file, or of standard input for "-"; empty lines are left out.

    Raises PromptError with the file's name and the line's number.
    """
    name = "standard input" if answers == STANDARD_INPUT else answers
    text = _text_of(answers, name)
    records = [
        _record(line, f"{name}: line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not records:
        raise PromptError(
            f"{name}: holds no answers; give a JSON object with prompt and answer on each line"
        )
    return records


def _text_of(answers: str, name: str) -> str:
    try:
        stdin = answers == STANDARD_INPUT
        content = sys.stdin.buffer.read() if stdin else expanded(answers).read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"{name}: line {line}: not UTF-8") from None
    except OSError as error:
        raise PromptError(f"{name}: cannot be read ({first_line(error)})") from error


def _record(line: str, where: str) -> AnswerRecord:
    try:
        values = parse_json(line)
    except ValueError as error:
        raise PromptError(f"{where}: not JSON ({first_line(error)})") from None
    if not isinstance(values, dict):
        raise PromptError(f"{where}: not a JSON object with prompt and answer")
    for key in ("prompt", "answer"):
        if key not in values:
            raise PromptError(f"{where}: has no {key}")
        if not isinstance(values[key], str):
            raise PromptError(f"{where}: {key} is not a text")
    label = values.get("label")
    if label is not None and label not in OUTCOMES:
        raise PromptError(f"{where}: label {label!r} is not one of {', '.join(OUTCOMES)}")
    return AnswerRecord(values, Exchange(values["prompt"], values["answer"]), label)
