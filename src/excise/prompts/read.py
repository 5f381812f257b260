"""Reads a prompt set from a file, a folder or the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from excise.errors import PromptError, translated
from excise.prompts.columns import texts_of
from excise.prompts.files import read_file
from excise.prompts.saved import read_saved
from excise.prompts.sets import Prompt, PromptSet
from excise.prompts.slices import Split, parse_split
from excise.prompts.source import FILE_SUFFIXES, PromptSource, parse_source
from excise.system.paths import expanded

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PromptDefaults:
    """Settings for prompt sources that do not set their own."""

    column: str = "text"
    prefix: str = ""
    suffix: str = ""
    system_prompt: str | None = None


def read_prompts(
    source: str | Path,
    *,
    column: str = "text",
    prefix: str = "",
    suffix: str = "",
    system_prompt: str | None = None,
    revision: str | None = None,
) -> PromptSet:
    """Read prompts from a .txt, .jsonl, .csv or .parquet file, a folder, or a data set on the hub.

    source: a path or a hub id, optionally with a split: "file.csv[:400]", "owner/name:train[10%:20%]".
    column: the column that holds the text. prefix, suffix: text put around every prompt. system_prompt: of
    every prompt. revision: commit, tag or branch of a hub data set.
    Raises PromptError, which names file and line, or HubError.
    """
    with translated(PromptError, f"{source}: not the name of a prompt set", ValidationError):
        parsed = PromptSource(**parse_source(str(source)), revision=revision)
    return read(parsed, PromptDefaults(column, prefix, suffix, system_prompt))


def read(source: PromptSource, shared: PromptDefaults, name: str = "prompts") -> PromptSet:
    """Read a file, a folder saved by `datasets`, or else a hub data set.

    A slice counts rows of the source; rows without text are dropped afterwards. Raises PromptError if the
    source cannot be read; HubError if the hub is out of reach and has left nothing in the cache, or refuses.
    """
    where = source.source
    split = parse_split(source.split, where)
    own = replace(shared, **source.model_dump(include=set(vars(shared)), exclude_none=True))
    rows, origin, revision = _rows(source, own.column, split)
    texts = texts_of(split.take(rows, where), own.column, where)
    if not texts:
        raise PromptError(f"{origin}: holds no text; it needs prompts")
    # An empty system prompt overrides the shared system prompt.
    prompts = tuple(
        Prompt(own.prefix + text + own.suffix, own.system_prompt or None) for text in texts
    )
    return PromptSet(name, prompts, origin, revision)


def _rows(source: PromptSource, column: str, split: Split) -> tuple[list[object], str, str | None]:
    """All rows of the column, their origin, and the commit."""
    path = expanded(source.source)
    if path.is_dir():
        return read_saved(path, column, split), str(source), None
    if path.is_file() or _names_a_file(source.source):
        if split.name is not None:
            raise PromptError(
                f"{path}: a file has no split {split.name}; leave it out, or write {path}[:400]"
            )
        return read_file(path, column), str(source), None
    # Imported here because datasets takes a second to import.
    from excise.prompts.hub import read_hub

    found = read_hub(source.source, source.revision, column, split)
    expression = split.expression if split.name else found.split + split.expression
    origin = f"{source.source}, {expression}"
    if found.from_cache:
        origin += ", from the cache (the hub is out of reach)"
    return found.rows, origin, found.revision


def _names_a_file(source: str) -> bool:
    return source.lower().endswith(FILE_SUFFIXES) or not _HUB_ID.fullmatch(source)
