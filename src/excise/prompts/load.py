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

    Raises PromptError if a set cannot be read or has too few prompts; HubError if a set is on the hub, and
    neither that nor a cached copy can be read.
    """
    return joined(
        _load_kind("target", sources.target, sources.shared),
        _load_kind("control", sources.control, sources.shared),
    )


def _load_kind(kind: str, sources: KindSources, shared: PromptDefaults) -> tuple[Parts, list[str]]:
    if sources.whole is not None:
        return three_parts(kind, whole=read(sources.whole, shared, kind))
    sets = {
        part: read(source, shared, f"{kind} {part.replace('_', '-')}")
        for part, source in vars(sources).items()
        if source is not None
    }
    return three_parts(kind, **sets)
