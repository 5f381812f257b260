"""The Pareto front of points.

Optuna's hypervolume is private (`optuna._hypervolume`), and its `best_trials` needs a study; fronts here are
also of records and of other tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from excise.scorers.scorer import PROMPTS
from excise.search.objective import DEFAULT, Objectives

VISIBLE_DAMAGE = 0.5
"""KL divergence in nats above which damage is visible in ordinary answers: a rule of thumb of the field."""


@dataclass(frozen=True)
class Point:
    """A scored trial. values: of each objective, in order."""

    number: int
    values: tuple[float, ...]
    objectives: Objectives = DEFAULT

    def __getitem__(self, name: str) -> float:
        """The value of an objective. Raises KeyError if there is no such objective."""
        return self.by_name[name]

    @property
    def by_name(self) -> dict[str, float]:
        """The value of each objective."""
        names = (each.name for each in self.objectives)
        return dict(zip(names, self.values, strict=True))

    @property
    def costs(self) -> tuple[float, ...]:
        """The values as numbers of which less is better."""
        pairs = zip(self.objectives, self.values, strict=True)
        return tuple(objective.cost(value) for objective, value in pairs)

    def told(self, digits: int = 3) -> str:
        """The values as text: `5 refusals at KL 0.100`."""
        first, *others = (
            each.told(value, digits)
            for each, value in zip(self.objectives, self.values, strict=True)
        )
        names = [title_of(each.name) for each in self.objectives]
        rest = " and ".join(
            f"{name} {value}" for name, value in zip(names[1:], others, strict=True)
        )
        count = self.objectives[0].unit == PROMPTS
        return f"{first} {names[0]} at {rest}" if count else f"{names[0]} {first} at {rest}"

    def as_json(self) -> dict[str, object]:
        """The number, and the value of each objective."""
        return {"number": self.number, **self.by_name}


def title_of(name: str) -> str:
    """The name of an objective in text."""
    return {"kl": "KL", "answer_kl": "KL of answers"}.get(name, name.replace("_", " "))


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point equals or beats in all objectives and beats in one, best first.

    They are in the order of the first objective. Of equal points, only the first trial is kept.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.costs, point.number)):
        if not any(dominates(other.costs, point.costs) for other in front):
            front.append(point)
    return front


def dominates(costs: Sequence[float], others: Sequence[float]) -> bool:
    """True if the first costs are nowhere more than the others."""
    return all(one <= other for one, other in zip(costs, others, strict=True))


def to_beat(points: Sequence[Point], name: str, others: Mapping[str, float]) -> float | None:
    """The cost of an objective at which a trial is dominated by `points`; None if none of them can dominate.

    others: bounds of the trial's costs in the other objectives.
    """
    costs = [
        {each.name: cost for each, cost in zip(point.objectives, point.costs, strict=True)}
        for point in points
    ]
    return min(
        (
            cost.get(name, 0.0)
            for cost in costs
            if all(cost[other] <= bound for other, bound in others.items())
        ),
        default=None,
    )


Box = Sequence[tuple[float, float]]
"""For each objective, the costs between which a volume is measured: best and worst."""


def box_of(fronts: Sequence[Sequence[Point]], prompts: int) -> Box:
    """The box in which fronts are compared.

    prompts: number of target prompts. Refusals reach from none to all, KL from 0 to visible damage, other
    figures from the best to the worst of all the fronts.
    """
    points = [point for front in fronts for point in front]
    objectives = points[0].objectives if points else DEFAULT
    box: list[tuple[float, float]] = []
    for place, objective in enumerate(objectives):
        costs = [point.costs[place] for point in points]
        if objective.name == "refusals":
            box.append((0.0, float(prompts)))
        elif objective.unit == "nats":
            box.append((0.0, VISIBLE_DAMAGE))
        else:
            box.append((min(costs), max(costs)))
    return box


def hypervolume(front: Sequence[Point], box: Box) -> float:
    """Share of a box that the front dominates, 0 to 1.

    Source: Zitzler and Thiele 1999, IEEE Transactions on Evolutionary Computation 3.
    """
    whole = 1.0
    for best, worst in box:
        # An objective in which all points are equal does not matter.
        whole *= (worst - best) or 1.0
    worst_costs = [(worst - best) or 1.0 for best, worst in box]
    inside = [
        [max(0.0, cost - best) for cost, (best, _) in zip(point.costs, box, strict=True)]
        for point in pareto_front(front)
    ]
    inside = [
        costs
        for costs in inside
        if all(cost < worst for cost, worst in zip(costs, worst_costs, strict=True))
    ]
    return _volume(inside, worst_costs) / whole


def _volume(points: Sequence[Sequence[float]], worst: Sequence[float]) -> float:
    """The volume between `worst` and the points, summed over slices of the first objective."""
    if not points:
        return 0.0
    if len(worst) == 1:
        return worst[0] - min(point[0] for point in points)
    volume, most = 0.0, worst[0]
    for point in sorted(points, key=lambda point: -point[0]):
        if point[0] < most:
            better = [other[1:] for other in points if other[0] <= point[0]]
            volume += (most - point[0]) * _volume(better, worst[1:])
            most = point[0]
    return volume
