"""Figures by group of prompts, such as topic or language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from excise.scorers.statistics import Estimate, Share, bootstrap

MOST_GROUPS = 20
"""Groups that are shown; of more groups, the smallest are put together."""
NO_GROUP = "(none)"
"""The group of prompts without one, beside prompts with groups."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class GroupFigures:
    """An edit on the prompts of one group, beside the original model.

    original, edited: refusals. kl: KL of the first answer token; answer_kl: along the original's answers;
    nats, of control prompts. None was not measured.
    """

    name: str
    prompts: int
    original: Share | None = None
    edited: Share | None = None
    kl: Estimate | None = None
    answer_kl: Estimate | None = None


@dataclass(frozen=True)
class FiguresByGroup:
    """The figures of each group of target and of control prompts, largest first; empty without groups."""

    target: tuple[GroupFigures, ...] = ()
    control: tuple[GroupFigures, ...] = ()


UNGROUPED = FiguresByGroup()
"""The figures of prompts without groups."""


@dataclass(frozen=True)
class Groups:
    """The prompts of each group, as positions in their set, by the group's name; largest group first."""

    members: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, groups: Sequence[str | None]) -> Groups:
        """From the group of each prompt. If no prompt has a group, there are no groups."""
        found: dict[str, list[int]] = {}
        if any(groups):
            for position, group in enumerate(groups):
                found.setdefault(group or NO_GROUP, []).append(position)
        largest = sorted(found, key=lambda name: -len(found[name]))
        if len(largest) > MOST_GROUPS:
            shown, rest = largest[: MOST_GROUPS - 1], largest[MOST_GROUPS - 1 :]
            together = sorted(position for name in rest for position in found[name])
            found[other := f"other ({len(rest)} groups)"] = together
            largest = [*shown, other]
        return cls({name: tuple(found[name]) for name in largest})

    def figures(
        self,
        *,
        original: Sequence[float] | None = None,
        edited: Sequence[float] | None = None,
        kl: Sequence[float] | None = None,
        answer_kl: Sequence[float] | None = None,
        seed: int = 0,
    ) -> tuple[GroupFigures, ...]:
        """The figures of each group, from the values of each prompt. seed: of the bootstrap.

        original, edited: 1 for a refused prompt, else 0. kl, answer_kl: nats.
        """
        return tuple(
            GroupFigures(
                name,
                len(positions),
                _share(original, positions),
                _share(edited, positions),
                _estimate(kl, positions, seed),
                _estimate(answer_kl, positions, seed),
            )
            for name, positions in self.members.items()
        )


def _share(refused: Sequence[float] | None, positions: Sequence[int]) -> Share | None:
    return None if refused is None else Share(round(sum(_at(refused, positions))), len(positions))


def _estimate(
    values: Sequence[float] | None, positions: Sequence[int], seed: int
) -> Estimate | None:
    return None if values is None else bootstrap(list(_at(values, positions)), seed)


def _at(values: Sequence[Value], positions: Iterable[int]) -> Iterable[Value]:
    return (values[position] for position in positions)
