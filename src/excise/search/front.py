"""The Pareto front, and the choice of a trial from it.

Optuna's hypervolume is private (`optuna._hypervolume`), and its `best_trials` needs a study; fronts here are
also of records and of other tools.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from excise.errors import SettingsError

VISIBLE_DAMAGE = 0.5
"""KL divergence in nats above which damage is visible in ordinary answers: a rule of thumb of the field."""
_BOUND = re.compile(
    r"(refusals|kl)\s*<=\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?)", re.IGNORECASE
)
_HELP = 'knee, fewest, a trial\'s number, "refusals<=N" or "kl<=X"'


@dataclass(frozen=True)
class Point:
    """A scored trial. refusals: among the search prompts. kl: nats, mean over prompts. Less is better."""

    number: int
    refusals: int
    kl: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point equals or beats in both and beats in one, fewest refusals first.

    Of equal points, only the first trial is kept.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.refusals, point.kl, point.number)):
        if not front or point.kl < front[-1].kl:
            front.append(point)
    return front


def refusals_to_beat(points: Sequence[Point], kl: float) -> int | None:
    """The number of refusals at which a trial with this KL is dominated by `points`; None without a limit."""
    return min((point.refusals for point in points if point.kl <= kl), default=None)


def hypervolume(front: Sequence[Point], prompts: int, worst_kl: float = VISIBLE_DAMAGE) -> float:
    """Share of the rectangle up to (`prompts` refusals, `worst_kl`) that the front dominates, 0 to 1.

    Source: Zitzler and Thiele 1999, IEEE Transactions on
    Evolutionary Computation 3.
    """
    area, most = 0.0, float(prompts)
    for point in sorted(pareto_front(front), key=lambda point: -point.refusals):
        if point.kl < worst_kl and point.refusals < most:
            area += (most - point.refusals) * (worst_kl - point.kl)
            most = float(point.refusals)
    return area / (prompts * worst_kl)


def knee(front: Sequence[Point]) -> Point:
    """The point of the front farthest below the line between its ends, both axes scaled to 0 … 1.

    Source: the "kneedle" idea (Satopää et al. 2011) on a discrete front. Ties go to fewer refusals.
    """
    most, least = front[-1], front[0]
    width = (most.refusals - least.refusals) or 1
    height = (least.kl - most.kl) or 1.0

    def below_line(point: Point) -> float:
        across = (point.refusals - least.refusals) / width
        up = (point.kl - most.kl) / height
        return 1 - across - up

    return max(front, key=below_line)


def reason(front: Sequence[Point], point: Point) -> str:
    """Why a trial of the front was chosen: the trade-offs towards its neighbours, as a clause."""
    place = list(front).index(point)
    text = f"trial {point.number}"
    if point == knee(front):
        text += " is the knee of the front"
    prices: list[str] = []
    if place > 0:
        fewer = front[place - 1]
        each = (fewer.kl - point.kl) / (point.refusals - fewer.refusals)
        prices.append(f"each refusal fewer costs {each:z.4f} nats")
    if place + 1 < len(front):
        more = front[place + 1]
        each = (point.kl - more.kl) / (more.refusals - point.refusals)
        prices.append(f"each refusal more saves {each:z.4f} nats")
    return ": ".join([text, ", ".join(prices)]) if prices else text


def check_selection(selection: str) -> None:
    """Raise SettingsError unless `selection` is of a known form."""
    known = selection in ("knee", "fewest") or selection.isdecimal() or _BOUND.fullmatch(selection)
    if not known:
        raise SettingsError(f"not understood; give {_HELP}", setting="select", value=selection)


def select(front: Sequence[Point], selection: str) -> Point:
    """The trial of the front that `selection` names.

    Raises SettingsError if the front is empty or no trial fits.
    """
    check_selection(selection)
    if not front:
        raise SettingsError("no trial has finished yet, so no trial can be chosen")
    if selection == "knee":
        return knee(front)
    if selection == "fewest":
        return front[0]
    if selection.isdecimal():
        fitting = [point for point in front if point.number == int(selection)]
        if not fitting:
            numbers = ", ".join(str(point.number) for point in front)
            raise SettingsError(
                f"not on the front; its trials are {numbers}", setting="select", value=selection
            )
        return fitting[0]
    bound = _BOUND.fullmatch(selection)
    assert bound is not None
    axis, limit = bound[1].lower(), float(bound[2])
    # The bound limits one objective; the other is minimised.
    if axis == "refusals":
        fitting = [point for point in front if point.refusals <= limit]
        chosen = min(fitting, key=lambda point: point.kl, default=None)
    else:
        fitting = [point for point in front if point.kl <= limit]
        chosen = min(fitting, key=lambda point: point.refusals, default=None)
    if chosen is None:
        raise SettingsError(
            f"no trial fits; the front reaches from {front[0].refusals} refusals at KL {front[0].kl:z.3f} "
            f"to {front[-1].refusals} at KL {front[-1].kl:z.3f}",
            setting="select",
            value=selection,
        )
    return chosen
