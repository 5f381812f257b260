"""Reads prompt sets from files, folders or the hub: one set, or all sets of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from excise.errors import PromptError, translated
from excise.prompts.columns import DEFAULT_COLUMN, Columns
from excise.prompts.files import read_file, read_saved
from excise.prompts.rows import Rows
from excise.prompts.sets import PromptSet
from excise.prompts.source import FILE_SUFFIXES, PromptSource, Split, parse_source, parse_split
from excise.prompts.splits import Parts, Prompts, joined, three_parts
from excise.system.paths import expanded

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PromptDefaults:
    """Settings for prompt sources that do not set their own."""

    column: str = DEFAULT_COLUMN
    prefix: str = ""
    suffix: str = ""
    system_prompt: str | None = None
    group_by: str | None = None


def read_prompts(
    source: str | Path,
    *,
    column: str = DEFAULT_COLUMN,
    prefix: str = "",
    suffix: str = "",
    system_prompt: str | None = None,
    revision: str | None = None,
    group_by: str | None = None,
) -> PromptSet:
    """Read prompts from a .txt, .jsonl, .json, .csv or .parquet file, a folder, or a data set on the hub.

    source: a path or a hub id, optionally with a split: "file.csv[:400]", "owner/name:train[10%:20%]".
    column: the column that holds texts or conversations; without a column `text`, it is `messages`,
    `conversations` or `conversation`. prefix, suffix: text put around every prompt. system_prompt: of every
    prompt without one. revision: commit, tag or branch of a hub data set. group_by: the column that holds the
    group of each prompt; None reads `topic` if there is such a column.
    Raises PromptError, which names file and line, or HubError.
    """
    with translated(PromptError, f"{source}: not the name of a prompt set", ValidationError):
        parsed = PromptSource(**parse_source(str(source)), revision=revision, group_by=group_by)
    return read(parsed, PromptDefaults(column, prefix, suffix, system_prompt))


def read(source: PromptSource, shared: PromptDefaults, name: str = "prompts") -> PromptSet:
    """Read a file, a folder saved by `datasets`, or else a hub data set.

    A slice counts rows of the source; rows without text are dropped afterwards. Raises PromptError if the
    source cannot be read; HubError if the hub is out of reach and has left nothing in the cache, or refuses.
    """
    where = source.source
    split = parse_split(source.split, where)
    own = replace(shared, **source.model_dump(include=set(vars(shared)), exclude_none=True))
    rows, origin, revision = _rows(source, Columns(own.column, own.group_by), split)
    if source.group_by is not None and rows.groups is None:
        there = ", ".join(rows.columns) or "no column at all"
        raise PromptError(
            f"{where}: no column {source.group_by} to group by, there is {there}; choose one "
            "with group_by (--group-by NAME)"
        )
    numbers = split.take(range(1, len(rows.values) + 1), where)
    # An empty system prompt overrides the shared system prompt.
    prompts, notes = rows.prompts(numbers, where, own.system_prompt or None)
    if not prompts:
        raise PromptError(f"{origin}: holds no text; it needs prompts")
    framed = (replace(each, text=own.prefix + each.text + own.suffix) for each in prompts)
    return PromptSet(name, tuple(framed), origin, revision, tuple(notes))


def _rows(source: PromptSource, columns: Columns, split: Split) -> tuple[Rows, str, str | None]:
    """All rows, their origin, and the commit."""
    path = expanded(source.source)
    if path.is_dir():
        return read_saved(path, columns, split), str(source), None
    if path.is_file() or _names_a_file(source.source):
        if split.name is not None:
            raise PromptError(
                f"{path}: a file has no split {split.name}; leave it out, or write {path}[:400]"
            )
        return read_file(path, columns), str(source), None
    # Imported here because datasets takes a second to import.
    from excise.prompts.hub import read_hub

    found = read_hub(source.source, source.revision, columns, split)
    expression = split.expression if split.name else found.split + split.expression
    origin = f"{source.source}, {expression}"
    if found.from_cache:
        origin += ", from the cache (the hub is out of reach)"
    return found.rows, origin, found.revision


def _names_a_file(source: str) -> bool:
    return source.lower().endswith(FILE_SUFFIXES) or not _HUB_ID.fullmatch(source)


@dataclass(frozen=True)
class KindSources:
    """Where one kind of prompts is read from: one set to be split three ways, or a set for each part.

    held_out: None cuts it off the train set.
    """

    whole: PromptSource | None = None
    train: PromptSource | None = None
    search: PromptSource | None = None
    held_out: PromptSource | None = None

    def named(self) -> list[PromptSource]:
        """The sources that are given."""
        return [source for source in vars(self).values() if source is not None]


@dataclass(frozen=True)
class PromptSources:
    """Where all prompts of a run are read from."""

    target: KindSources
    control: KindSources
    shared: PromptDefaults = field(default_factory=PromptDefaults)

    def names(self) -> list[str]:
        """The sets, each once, as they would be typed."""
        return list(dict.fromkeys(map(str, (*self.target.named(), *self.control.named()))))


def load_parts(sources: PromptSources) -> Prompts:
    """Read all prompt sets of a run and make their three parts.

    Raises PromptError if a set cannot be read or has too few prompts, or if no set has the shared column of
    groups; HubError if a set is on the hub, and neither that nor a cached copy can be read.
    """
    shared = sources.shared
    prompts = joined(
        _load_kind("target", sources.target, shared),
        _load_kind("control", sources.control, shared),
    )
    if shared.group_by is not None and not prompts.grouped:
        raise PromptError(
            f"no prompt has a group: no set has a column {shared.group_by} with values; choose another with "
            "group_by (--group-by NAME)"
        )
    return prompts


def _load_kind(kind: str, sources: KindSources, shared: PromptDefaults) -> tuple[Parts, list[str]]:
    if sources.whole is not None:
        return three_parts(kind, whole=read(sources.whole, shared, kind))
    sets = {
        part: read(source, shared, f"{kind} {part.replace('_', '-')}")
        for part, source in vars(sources).items()
        if source is not None
    }
    return three_parts(kind, **sets)
