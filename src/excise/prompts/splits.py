"""Train, search and held-out prompts of both kinds, with nothing in two parts at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from excise.config.settings import Settings
from excise.errors import PromptError
from excise.prompts.read import Shared, read
from excise.prompts.sets import Prompt, PromptSet
from excise.prompts.source import PromptSource

_SPLIT_SEED = 0
"""Whatever `--seed` says: searches that differ in it alone are measured on the same held-out prompts."""
FULL_SPLIT = (400, 100, 100)
"""Train, search and held-out prompts taken from one set that has as many."""
LARGEST_CUT = 100
"""Most prompts that are cut off a train set to be held out."""
_FIELDS = ("", "_train", "_search", "_held_out")
_NAMED = 3
"""Prompts that a note about an overlap quotes."""
MINIMUM = {"train": 4, "search": 1, "held-out": 1}
"""Fewer than these, and there is nothing to average or to count."""


@dataclass(frozen=True)
class Parts:
    """The three parts of one kind of prompts. No prompt is in two of them."""

    train: PromptSet
    """For directions."""
    search: PromptSet
    """For the scores that the search sees."""
    held_out: PromptSet
    """For the figures that are reported."""


@dataclass(frozen=True)
class PromptParts:
    """All prompts of a run, and what was done to them that a reader of its figures should know."""

    target: Parts
    control: Parts
    notes: tuple[str, ...]


def load_parts(settings: Settings) -> PromptParts:
    """Read all prompt sets of a run and make their three parts.

    Raises:
        PromptError: a set cannot be read, or has too few prompts.
        HubError: a set is on the hub, and neither that nor a cached copy can be read.
    """
    shared = Shared.of(settings)
    target, target_notes = _load_kind(
        "target",
        settings.target,
        (settings.target_train, settings.target_search, settings.target_held_out),
        shared,
    )
    control, control_notes = _load_kind(
        "control",
        settings.control,
        (settings.control_train, settings.control_search, settings.control_held_out),
        shared,
    )
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


def named_sets(settings: Settings) -> list[str]:
    """The prompt sets that the settings name, each once, as they would be typed."""
    fields = [f"{kind}{part}" for kind in ("target", "control") for part in _FIELDS]
    sources = [getattr(settings, field) for field in fields]
    return list(dict.fromkeys(str(source) for source in sources if source is not None))


def _load_kind(
    kind: str,
    whole: PromptSource | None,
    parts: tuple[PromptSource | None, PromptSource | None, PromptSource | None],
    shared: Shared,
) -> tuple[Parts, list[str]]:
    notes: list[str] = []
    if whole is not None:
        three = split_whole(read(whole, shared, kind), _SPLIT_SEED)
    else:
        train_source, search_source, held_out_source = parts
        if train_source is None or search_source is None:
            # `Settings` fills both in or refuses, so this is what a caller of ours did wrong.
            raise ValueError(f"settings without {kind}_train or {kind}_search")
        train = read(train_source, shared, f"{kind} train")
        search = read(search_source, shared, f"{kind} search")
        if held_out_source is not None:
            held_out = read(held_out_source, shared, f"{kind} held-out")
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
    """Cut a quarter, at most 100 prompts, off the end of a train set: the rest, and the cut."""
    rest = len(train) - min(LARGEST_CUT, len(train) // 4)
    held_out = replace(
        train,
        name=name,
        prompts=train.prompts[rest:],
        origin=f"{train.origin}, the last {len(train) - rest}",
    )
    return replace(train, prompts=train.prompts[:rest]), held_out


def drop_repeated(parts: Parts) -> tuple[Parts, list[str]]:
    """Drop from search what is in train, from held-out what is in either; say how many of each.

    A prompt is the same if its text and its system prompt are.
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
