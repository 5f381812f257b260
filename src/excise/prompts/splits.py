"""Splits target and control prompts into disjoint train, search and held-out sets."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from excise.errors import PromptError
from excise.prompts.given import PromptLike, prompt_set
from excise.prompts.sets import Prompt, PromptSet

_SPLIT_SEED = 0
"""Independent of `--seed`, so that searches with different seeds have the same held-out prompts."""
FULL_SPLIT = (400, 100, 100)
"""Numbers of train, search and held-out prompts from a large set."""
LARGEST_CUT = 100
"""Most prompts of a train set that are held out."""
_NAMED = 3
"""Number of prompts that a note about an overlap quotes."""
_GOLDEN_RATIO = (5**0.5 - 1) / 2
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
    def of(
        cls,
        target: Given,
        control: Given,
        *,
        system_prompt: str | None = None,
        group_by: str | None = None,
    ) -> Prompts:
        """Prompts from memory.

        target, control: a `PromptSet` (see `excise.read_prompts`) or a sequence of prompts, which is shuffled
        and split three ways as the command line does it; or a mapping from "train", "search" and, unless it
        is to be cut off the train prompts, "held_out" to such sets. A prompt is a string, a chat message with
        "role" and "content", or a conversation of such messages that ends with one of the user. All prompts
        of a set may also be rows: mappings with `text`, or else with a conversation as `messages`.
        system_prompt: of prompts that bring none of their own. group_by: the key of rows whose value is the
        group; None reads `topic` if rows have it.
        Raises PromptError if a prompt is none of these, or a set has too few.
        """
        sets = {"target": target, "control": control}
        made = {
            kind: _parts_of(kind, given, system_prompt, group_by) for kind, given in sets.items()
        }
        return joined(made["target"], made["control"])

    @property
    def grouped(self) -> bool:
        """True if a prompt has a group."""
        return any(
            prompt.group for each in (self.target, self.control) for prompt in _all_prompts(each)
        )


Given = PromptSet | Sequence[PromptLike] | Mapping[str, PromptSet | Sequence[PromptLike]]


def _parts_of(
    kind: str, given: Given, system_prompt: str | None, group_by: str | None
) -> tuple[Parts, list[str]]:
    if not isinstance(given, Mapping):
        return three_parts(kind, whole=prompt_set(given, kind, system_prompt, group_by))
    unknown = set(given) - {"train", "search", "held_out"}
    if unknown or not {"train", "search"} <= set(given):
        raise PromptError(
            f"{kind}: a mapping of prompts has the keys train, search and, if wanted, held_out; this one has "
            f"{', '.join(map(str, given))}"
        )
    sets = {
        part: prompt_set(one, f"{kind} {part.replace('_', '-')}", system_prompt, group_by)
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
    given = {kind: whole, f"{kind} train": train, f"{kind} search": search}
    given[f"{kind} held-out"] = held_out
    notes = [f"{name}: {note}" for name, each in given.items() if each for note in each.notes]
    if whole is not None:
        three = split_whole(whole, _SPLIT_SEED)
    elif train is None or search is None:
        raise ValueError(f"no {kind} train prompts, or no search prompts")
    else:
        if held_out is None:
            before, by_group = len(train), _by_group(train)
            train, held_out = cut_held_out(train, f"{kind} held-out")
            notes.append(
                f"{kind}: no held-out set is given, so the last {len(held_out)} of the {before} "
                f"train prompts{by_group} are held out."
            )
        three = Parts(train, search, held_out)
    three, dropped = drop_repeated(three)
    notes += [f"{kind}: {note}" for note in dropped]
    _check_sizes(kind, three)
    return three, notes


def split_whole(whole: PromptSet, seed: int) -> Parts:
    """Shuffle one set and split it: 400, 100 and 100, or 2/3, 1/6 and 1/6 where it has fewer.

    Each part has about the same share of every group.
    """
    prompts = list(whole.prompts)
    random.Random(seed).shuffle(prompts)
    prompts = [prompts[index] for index in _mixed(prompts)]
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
    """Split a quarter, at most 100 prompts, off a train set; returns both sets.

    Without groups it is the end of the set, otherwise about the same share of every group.
    """
    rest = len(train) - min(LARGEST_CUT, len(train) // 4)
    order = _mixed(train.prompts)
    kept, cut = (
        tuple(train.prompts[index] for index in sorted(part))
        for part in (order[:rest], order[rest:])
    )
    origin = f"{train.origin}, the last {len(train) - rest}{_by_group(train)}"
    held_out = replace(train, name=name, prompts=cut, origin=origin)
    return replace(train, prompts=kept), held_out


def _by_group(prompts: PromptSet) -> str:
    return " by group" if len({prompt.group for prompt in prompts}) > 1 else ""


def _mixed(prompts: Sequence[Prompt]) -> list[int]:
    """Indices of prompts in an order in which every stretch has about the same share of each group.

    The prompts of a group stay in order. They stand at equal distances, as in systematic sampling; the first
    distances differ by multiples of the golden ratio, so that small groups do not all stand at one place.
    One group alone, or none, keeps its order.
    """
    sizes = Counter(prompt.group for prompt in prompts)
    starts = {group: index * _GOLDEN_RATIO % 1 for index, group in enumerate(sizes, 1)}
    seen: Counter[str | None] = Counter()
    places = []
    for prompt in prompts:
        group = prompt.group
        places.append((seen[group] + starts[group]) / sizes[group])
        seen[group] += 1
    return sorted(range(len(prompts)), key=places.__getitem__)


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
