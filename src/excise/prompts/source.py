"""Where a prompt set comes from: a file, a folder or a hub data set, and which part of it."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

from excise.system.paths import is_drive

FILE_SUFFIXES: tuple[str, ...] = (".txt", ".jsonl", ".csv", ".parquet")
"""Endings of the local files that prompts are read from."""

# "file.txt[:400]", and "file.txt:[:400]" which says the same.
_BARE_SLICE = re.compile(r"(?P<source>.+?):?(?P<split>\[[^\[\]]*\])", re.DOTALL)
# "owner/name:train" and "owner/name:train[:400]". A split's name is made of words and dots, so the
# colon of a drive ("C:\prompts.txt") never qualifies: a separator follows it.
_NAMED_SPLIT = re.compile(r"(?P<source>.+):(?P<split>\w+(\.\w+)*(\[[^\[\]]*\])?)", re.DOTALL)


def parse_source(text: str) -> dict[str, str]:
    """Take "SOURCE", "SOURCE:SPLIT" or "FILE[:400]" apart, into the fields of a `PromptSource`.

    It looks at the text alone, never at the disk. A file whose own name reads like a split can be
    named in the form of a table, where nothing is taken apart.
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
