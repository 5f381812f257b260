"""The source of a prompt set: a file, a folder or a hub data set, and the split or slice to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from excise.errors import PromptError
from excise.system.paths import is_drive

Row = TypeVar("Row")

FILE_SUFFIXES: tuple[str, ...] = (".txt", ".jsonl", ".json", ".csv", ".parquet")
"""Suffixes of supported files of prompts."""

# "file.txt[:400]", and "file.txt:[:400]" which says the same.
_BARE_SLICE = re.compile(r"(?P<source>.+?):?(?P<split>\[[^\[\]]*\])", re.DOTALL)
# "owner/name:train" and "owner/name:train[:400]". A split's name is made of words and dots, so the
# colon of a drive ("C:\prompts.txt") never qualifies: a separator follows it.
_NAMED_SPLIT = re.compile(r"(?P<source>.+):(?P<split>\w+(\.\w+)*(\[[^\[\]]*\])?)", re.DOTALL)


def parse_source(text: str) -> dict[str, str]:
    """Parse "SOURCE", "SOURCE:SPLIT" or "FILE[:400]" into the fields of a `PromptSource`.

    Only the text is used, not the disk. A file whose name looks like a split can be given as a table of
    fields.
    """
    named = _NAMED_SPLIT.fullmatch(text)
    if named and not is_drive(named["source"]) and not text.lower().endswith(FILE_SUFFIXES):
        return {"source": named["source"], "split": named["split"]}
    bare = _BARE_SLICE.fullmatch(text)
    if bare:
        return {"source": bare["source"], "split": bare["split"]}
    return {"source": text}


class PromptSource(BaseModel):
    """One prompt set to read; a plain string stands for `source` and `split` alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        min_length=1, description="A file, a folder saved by datasets, or the id of a hub data set."
    )
    split: str | None = Field(
        default=None, description="The part to take: train, train[:400], [10:20], [:50%]."
    )
    column: str | None = Field(
        default=None, min_length=1, description="The column that holds the text."
    )
    group_by: str | None = Field(
        default=None, min_length=1, description="The column that holds the group of each prompt."
    )
    prefix: str | None = Field(default=None, description="Text put before every prompt.")
    suffix: str | None = Field(default=None, description="Text put after every prompt.")
    system_prompt: str | None = Field(
        default=None, description="System prompt; empty for none at all."
    )
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of a hub data set."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return parse_source(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        if self.split is None:
            return self.source
        return self.source + ("" if self.split.startswith("[") else ":") + self.split


_EXPRESSION = re.compile(
    r"(?P<name>\w+(\.\w+)*)?"
    r"(?P<slice>\[\s*(?P<start>-?\d+%?)?\s*:\s*(?P<stop>-?\d+%?)?\s*\])?"
)


@dataclass(frozen=True)
class Split:
    """A part of a data set: the split's name, and which of its rows."""

    expression: str
    name: str | None = None
    start: str | None = None
    stop: str | None = None

    def take(self, rows: Sequence[Row], where: str) -> list[Row]:
        """The rows of the slice; all rows without a slice.

        Raises PromptError if the slice is empty or goes beyond the end. It is never shortened silently,
        because results on fewer prompts do not compare.
        """
        if self.start is None and self.stop is None:
            return list(rows)
        count = len(rows)
        start = _position(self.start, count, 0)
        stop = _position(self.stop, count, count)
        if min(start, stop) < 0 or max(start, stop) > count:
            reach = max(start, stop, count - min(start, stop))
            asked = f"{reach} prompts" if start <= 0 else f"prompts up to {reach}"
            raise PromptError(
                f"{where}: {self.expression} asks for {asked}, the split has {count}; ask for fewer"
            )
        if start >= stop:
            raise PromptError(
                f"{where}: {self.expression} names no prompt, the split has {count}; "
                "the first number must be less than the second"
            )
        return list(rows[start:stop])


def parse_split(expression: str | None, where: str) -> Split:
    """Parse a split expression; None is the whole data set. Raises PromptError."""
    if not expression:
        return Split("")
    found = _EXPRESSION.fullmatch(expression.strip())
    if found is None:
        raise PromptError(
            f"{where}: {expression} is not a split; write for example train, train[:400], [10:20] "
            "or [:50%]"
        )
    return Split(expression, found["name"], found["start"], found["stop"])


def _position(text: str | None, count: int, default: int) -> int:
    """Row number of an end of a slice; percentages are rounded as in datasets."""
    if text is None:
        return default
    number = int(text.removesuffix("%"))
    if text.endswith("%"):
        number = round(number * count / 100)
    return number + count if text.startswith("-") else number
