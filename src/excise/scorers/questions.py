"""Questions with several choices: those that come with excise, or a file of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from excise.errors import PromptError, translated
from excise.system.json_files import parse_json
from excise.system.paths import expanded

BUILT_IN = "questions.jsonl"
"""Sixty easy questions of common knowledge and common sense with four choices, written for excise."""


@dataclass(frozen=True)
class Question:
    """A question. answer: index of the right choice."""

    text: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("the question is empty")
        if len(self.choices) < 2 or not all(each.strip() for each in self.choices):
            raise ValueError("give at least two choices, none of them empty")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("two choices are the same")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(
                f"answer {self.answer}: the choices are numbered 0 to {len(self.choices) - 1}"
            )


def built_in_questions() -> tuple[Question, ...]:
    """The questions that come with excise."""
    text = (files("excise.scorers") / BUILT_IN).read_text(encoding="utf-8")
    return tuple(_question(parse_json(line)) for line in text.splitlines())


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """The questions of a JSON Lines file with "question", "choices" and "answer", the index of the right one.

    Raises PromptError with the line that is wrong.
    """
    place = expanded(path)
    with translated(PromptError, f"{place}: cannot be read", OSError, UnicodeDecodeError):
        lines = place.read_text(encoding="utf-8-sig").split("\n")
    found: list[Question] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            what = f"{place}: line {number}: not a question"
            with translated(PromptError, what, ValueError, TypeError):
                found.append(_question(parse_json(line)))
    if not found:
        raise PromptError(f"{place}: the file is empty; it needs questions")
    return tuple(found)


def _question(row: Any) -> Question:
    """The question of one line. Raises TypeError or ValueError."""
    shape = '{"question": "…", "choices": ["…", "…"], "answer": 0}'
    if not isinstance(row, Mapping) or not {"question", "choices", "answer"} <= set(row):
        raise TypeError(f"write {shape}")
    text, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(text, str) or not isinstance(choices, list):
        raise TypeError(f"write {shape}")
    if not all(isinstance(each, str) for each in choices):
        raise TypeError("the choices are not text")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise TypeError("the answer is not the index of a choice")
    return Question(text, tuple(choices), answer)
