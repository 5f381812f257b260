"""Splits target and control prompts into disjoint train, search and held-out sets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from excise.errors import PromptError
from excise.prompts.read import PromptDefaults, read
from excise.prompts.sets import Prompt, PromptSet
from excise.prompts.source import PromptSource

_SPLIT_SEED = 0
"""Independent of `--seed`, so that searches with different seeds have the same held-out prompts."""
FULL_SPLIT = (400, 100, 100)
"""Numbers of train, search and held-out prompts from a large set."""
LARGEST_CUT = 100
"""Most prompts of a train set that are held out."""
_NAMED = 3
"""Number of prompts that a note about an overlap quotes."""
MINIMUM = {"train": 4, "search": 1, "held-out": 1}
"""Fewest prompts of each part."""


@dataclass(frozen=True)
class KindSources:
    """Sources of target or control prompts: one set to split, or a set for each part.

    held_out: None takes it from the train set.
    """

    whole: PromptSource | None = None
    train: PromptSource | None = None
    search: PromptSource | None = None
    held_out: PromptSource | None = None

    def named(self) -> list[PromptSource]:
        """The sources that are set."""
        sources = (self.whole, self.train, self.search, self.held_out)
        return [source for source in sources if source is not None]


@dataclass(frozen=True)
class PromptSources:
    """Sources of all prompts of a run."""

    target: KindSources
    control: KindSources
    shared: PromptDefaults = field(default_factory=PromptDefaults)

    def names(self) -> list[str]:
        """The distinct sources, as a user would write them."""
        return list(dict.fromkeys(map(str, (*self.target.named(), *self.control.named()))))


@dataclass(frozen=True)
class Parts:
    """Three disjoint sets of target or control prompts."""

    train: PromptSet
    """For directions."""
    search: PromptSet
    """For the scores of the search."""
    held_out: PromptSet
    """For the reported figures."""


@dataclass(frozen=True)
class PromptParts:
    """All prompts of a run, with notes for readers of its figures."""

    target: Parts
    control: Parts
    notes: tuple[str, ...]


def load_parts(sources: PromptSources) -> PromptParts:
    """Read all prompt sets of a run and split them.

    Raises:
        PromptError: a set cannot be read, or has too few prompts.
        HubError: neither the hub nor a cached copy can be read.
    """
    target, target_notes = _load_kind("target", sources.target, sources.shared)
    control, control_notes = _load_kind("control", sources.control, sources.shared)
    both = _all_prompts(target) & _all_prompts(control)
    if both and both >= _all_prompts(target):
        raise PromptError("target and control hold the same prompts; give two sets that differ")
    named = sorted(repr(prompt.text) for prompt in both)
    quoted = ", ".join(named[:_NAMED] + ["…"] * (len(named) > _NAMED))
    in_both = (
        [f"{_count(len(both))} in both target and control ({quoted}); none was dropped."]
        if both
        else []
    )
    return PromptParts(target, control, (*target_notes, *control_notes, *in_both))


def _load_kind(kind: str, sources: KindSources, shared: PromptDefaults) -> tuple[Parts, list[str]]:
    notes: list[str] = []
    if sources.whole is not None:
        three = split_whole(read(sources.whole, shared, kind), _SPLIT_SEED)
    else:
        if sources.train is None or sources.search is None:
            raise ValueError(f"no source of the {kind} train prompts, or of the search prompts")
        train = read(sources.train, shared, f"{kind} train")
        search = read(sources.search, shared, f"{kind} search")
        if sources.held_out is not None:
            held_out = read(sources.held_out, shared, f"{kind} held-out")
        else:
            before = len(train)
            train, held_out = cut_held_out(train, f"{kind} held-out")
            notes.append(
                f"{kind}: no held-out set is given, so the last {len(held_out)} of the {before} "
                "train prompts are held out."
            )
        three = Parts(train, search, held_out)
    three, dropped = drop_repeated(three)
    notes += [f"{kind}: {note}" for note in dropped]
    _check_sizes(kind, three)
    return three, notes


def split_whole(whole: PromptSet, seed: int) -> Parts:
    """Shuffle one set and split it: 400, 100 and 100, or 2/3, 1/6 and 1/6 where it has fewer."""
    prompts = list(whole.prompts)
    random.Random(seed).shuffle(prompts)
    if len(prompts) >= sum(FULL_SPLIT):
        train, search, held_out = FULL_SPLIT
    else:
        search = held_out = len(prompts) // 6
        train = len(prompts) - search - held_out
    ends = (0, train, train + search, train + search + held_out)
    return Parts(
        *(
            replace(whole, name=f"{whole.name} {part}", prompts=tuple(prompts[start:stop]))
            for part, start, stop in zip(MINIMUM, ends, ends[1:], strict=False)
        )
    )


def cut_held_out(train: PromptSet, name: str) -> tuple[PromptSet, PromptSet]:
    """Split a quarter, at most 100 prompts, off the end of a train set; returns both sets."""
    rest = len(train) - min(LARGEST_CUT, len(train) // 4)
    held_out = replace(
        train,
        name=name,
        prompts=train.prompts[rest:],
        origin=f"{train.origin}, the last {len(train) - rest}",
    )
    return replace(train, prompts=train.prompts[:rest]), held_out


def drop_repeated(parts: Parts) -> tuple[Parts, list[str]]:
    """Drop train prompts from search, and train and search prompts from held-out; returns notes too.

    Prompts are equal if text and system prompt are equal.
    """
    notes: list[str] = []
    search, dropped = _without(parts.search, set(parts.train.prompts))
    if dropped:
        notes.append(f"{_count(dropped)} in both train and search; dropped from search.")
    held_out = parts.held_out
    for name, other in (("train", parts.train), ("search", search)):
        held_out, dropped = _without(held_out, set(other.prompts))
        if dropped:
            notes.append(f"{_count(dropped)} in both {name} and held-out; dropped from held-out.")
    return Parts(parts.train, search, held_out), notes


def _without(prompt_set: PromptSet, unwanted: set[Prompt]) -> tuple[PromptSet, int]:
    kept = tuple(prompt for prompt in prompt_set.prompts if prompt not in unwanted)
    return replace(prompt_set, prompts=kept), len(prompt_set) - len(kept)


def _check_sizes(kind: str, parts: Parts) -> None:
    for part, needed in MINIMUM.items():
        prompt_set = getattr(parts, part.replace("-", "_"))
        if len(prompt_set) < needed:
            raise PromptError(
                f"{kind}: {part} has {_plural(len(prompt_set))} ({prompt_set.origin}), at least "
                f"{needed} needed; give more prompts"
            )


def _all_prompts(parts: Parts) -> set[Prompt]:
    return {*parts.train.prompts, *parts.search.prompts, *parts.held_out.prompts}


def _count(number: int) -> str:
    return f"{_plural(number)} {'is' if number == 1 else 'are'}"


def _plural(number: int) -> str:
    return f"{number} prompt" + ("" if number == 1 else "s")
