"""All prompt sets of a run, read from where they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from excise.prompts.read import PromptDefaults, read
from excise.prompts.source import PromptSource
from excise.prompts.splits import Parts, Prompts, joined, three_parts


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
        sources = (self.whole, self.train, self.search, self.held_out)
        return [source for source in sources if source is not None]


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

    Raises:
        PromptError: a set cannot be read, or has too few prompts.
        HubError: a set is on the hub, and neither that nor a cached copy can be read.
    """
    target, control = (
        _load_kind(kind, own, sources.shared)
        for kind, own in (("target", sources.target), ("control", sources.control))
    )
    return joined(target, control)


def _load_kind(kind: str, sources: KindSources, shared: PromptDefaults) -> tuple[Parts, list[str]]:
    named = {
        "whole": (sources.whole, kind),
        "train": (sources.train, f"{kind} train"),
        "search": (sources.search, f"{kind} search"),
        "held_out": (sources.held_out, f"{kind} held-out"),
    }
    if sources.whole is not None:
        named = {"whole": named["whole"]}
    sets = {
        part: read(source, shared, name)
        for part, (source, name) in named.items()
        if source is not None
    }
    return three_parts(kind, **sets)
