"""The choice of a trial from the Pareto front."""

from __future__ import annotations

import re
from collections.abc import Sequence

from excise.errors import SettingsError
from excise.search.front import Point
from excise.search.objective import DEFAULT, Objectives

_NUMBER = r"(?P<number>-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?)"
_BOUND = re.compile(rf"(?P<name>[a-z][a-z0-9_]*)\s*(?P<sign><=|>=)\s*{_NUMBER}", re.IGNORECASE)


def knee(front: Sequence[Point]) -> Point:
    """The point of the front farthest below the plane between its ends, all axes scaled to 0 … 1.

    Source: the "kneedle" idea (Satopää et al. 2011) on a discrete front. Ties go to the first objective.
    """
    columns = list(zip(*(point.costs for point in front), strict=True))
    least = [min(column) for column in columns]
    widths = [(max(column) - min(column)) or 1.0 for column in columns]

    def below_plane(point: Point) -> float:
        depth = 1.0
        for cost, low, width in zip(point.costs, least, widths, strict=True):
            depth -= (cost - low) / width
        return depth

    return max(front, key=below_plane)


def reason(front: Sequence[Point], point: Point) -> str:
    """Why a trial of the front was chosen: the trade-offs towards its neighbours, as a clause."""
    text = f"trial {point.number}"
    if point == knee(front):
        text += " is the knee of the front"
    # Neighbours along one axis say what a refusal costs only if there is one other axis.
    prices = _prices(front, point) if point.objectives == DEFAULT else []
    return ": ".join([text, ", ".join(prices)]) if prices else text


def _prices(front: Sequence[Point], point: Point) -> list[str]:
    place = list(front).index(point)
    prices: list[str] = []
    if place > 0:
        fewer = front[place - 1]
        each = (fewer["kl"] - point["kl"]) / (point["refusals"] - fewer["refusals"])
        prices.append(f"fewer refusals cost {each:z.4f} nats each")
    if place + 1 < len(front):
        more = front[place + 1]
        each = (point["kl"] - more["kl"]) / (more["refusals"] - point["refusals"])
        prices.append(f"more refusals save {each:z.4f} nats each")
    return prices


def rules(objectives: Objectives) -> list[str]:
    """The rules that bound one objective, for messages."""
    return [
        f"{each.name}{'>=' if each.better == 'more' else '<='}{'X' if place else 'N'}"
        for place, each in enumerate(objectives)
    ]


def check_selection(selection: str, objectives: Objectives | None = DEFAULT) -> None:
    """Raise SettingsError unless `selection` is of a known form and names an objective.

    objectives: None while they are unknown; then only the form is checked.
    """
    if selection in ("knee", "fewest") or selection.isdecimal():
        return
    bound = _BOUND.fullmatch(selection)
    if bound is not None and objectives is None:
        return
    if bound is not None and any(
        each.name == bound["name"].lower() and (bound["sign"] == ">=") == (each.better == "more")
        for each in objectives or ()
    ):
        return
    quoted = [f'"{rule}"' for rule in rules(objectives or DEFAULT)]
    known = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    raise SettingsError(
        f"not understood; give knee, fewest, a trial's number, {known}",
        setting="select",
        value=selection,
    )


def select(front: Sequence[Point], selection: str) -> Point:
    """The trial of the front that `selection` names.

    Raises SettingsError if the front is empty or no trial fits.
    """
    if not front:
        check_selection(selection)
        raise SettingsError("no trial has finished yet, so no trial can be chosen")
    objectives = front[0].objectives
    check_selection(selection, objectives)
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
    names = [each.name for each in objectives]
    place = names.index(bound["name"].lower())
    limit = objectives[place].cost(float(bound["number"]))
    # The bound limits one objective; the others are minimised, the first of them above all.
    fitting = [point for point in front if point.costs[place] <= limit]
    if not fitting:
        raise SettingsError(
            f"no trial fits; the front reaches from {front[0].told()} to {front[-1].told()}",
            setting="select",
            value=selection,
        )
    return min(fitting, key=lambda point: [*point.costs[:place], *point.costs[place + 1 :]])
