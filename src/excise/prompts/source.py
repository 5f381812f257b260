"""The source of a prompt set: a file, a folder or a hub data set, and the part to read."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

from excise.system.paths import is_drive

FILE_SUFFIXES: tuple[str, ...] = (".txt", ".jsonl", ".csv", ".parquet")
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
