"""Splits target and control prompts into disjoint train, search and held-out sets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from excise.errors import PromptError
from excise.prompts.sets import Prompt, PromptLike, PromptSet, prompt_set

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
class Parts:
    """Three disjoint sets of target or control prompts."""

    train: PromptSet
    """For directions."""
    search: PromptSet
    """For the scores of the search."""
    held_out: PromptSet
    """For the reported figures."""


@dataclass(frozen=True)
class Prompts:
    """All prompts of an experiment, with notes for readers of its figures."""

    target: Parts
    """Prompts that evoke the behaviour."""
    control: Parts
    """Prompts that do not evoke it."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: Given, control: Given, *, system_prompt: str | None = None) -> Prompts:
        """Prompts from memory.

        target, control: a `PromptSet` (see `excise.read_prompts`) or a sequence of prompts, which is shuffled
        and split three ways as the command line does it; or a mapping from "train", "search" and, unless it
        is to be cut off the train prompts, "held_out" to such sets. A prompt is a string, a chat message with
        "role" and "content", or a conversation of such messages that ends with one of the user.
        system_prompt: of prompts that bring none of their own.
        Raises PromptError if a prompt is none of these, or a set has too few.
        """
        sets = {"target": target, "control": control}
        made = {kind: _parts_of(kind, given, system_prompt) for kind, given in sets.items()}
        return joined(made["target"], made["control"])


Given = PromptSet | Sequence[PromptLike] | Mapping[str, PromptSet | Sequence[PromptLike]]


def _parts_of(kind: str, given: Given, system_prompt: str | None) -> tuple[Parts, list[str]]:
    if not isinstance(given, Mapping):
        return three_parts(kind, whole=prompt_set(given, kind, system_prompt))
    unknown = set(given) - {"train", "search", "held_out"}
    if unknown or not {"train", "search"} <= set(given):
        raise PromptError(
            f"{kind}: a mapping of prompts has the keys train, search and, if wanted, held_out; this one has "
            f"{', '.join(map(str, given))}"
        )
    sets = {
        part: prompt_set(one, f"{kind} {part.replace('_', '-')}", system_prompt)
        for part, one in given.items()
    }
    return three_parts(kind, **sets)


def joined(target: tuple[Parts, list[str]], control: tuple[Parts, list[str]]) -> Prompts:
    """Both kinds with their notes. Raises PromptError if they hold the same prompts."""
    both = _all_prompts(target[0]) & _all_prompts(control[0])
    if both and both >= _all_prompts(target[0]):
        raise PromptError("target and control hold the same prompts; give two sets that differ")
    named = sorted(repr(prompt.text) for prompt in both)
    quoted = ", ".join(named[:_NAMED] + ["…"] * (len(named) > _NAMED))
    note = f"{_count(len(both))} in both target and control ({quoted}); none was dropped."
    return Prompts(target[0], control[0], (*target[1], *control[1], *([note] if both else [])))


def three_parts(
    kind: str,
    *,
    whole: PromptSet | None = None,
    train: PromptSet | None = None,
    search: PromptSet | None = None,
    held_out: PromptSet | None = None,
) -> tuple[Parts, list[str]]:
    """Parts of one kind without a prompt in two of them, and notes on what was done.

    Either `whole` is split, or the other sets are taken as they are. Raises PromptError if one has too few.
    """
    notes: list[str] = []
    if whole is not None:
        three = split_whole(whole, _SPLIT_SEED)
    elif train is None or search is None:
        raise ValueError(f"no {kind} train prompts, or no search prompts")
    else:
        if held_out is None:
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
