"""The spread of a search's figures over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from excise.search.front import Point, box_of, hypervolume
from excise.store.outcome import Outcome


@dataclass(frozen=True)
class SeedResult:
    """The outcome of one seed. hypervolume: of its front on search prompts, see `search.front`."""

    seed: int
    outcome: Outcome
    hypervolume: float


@dataclass(frozen=True)
class Searched:
    """A finished search with one seed."""

    seed: int
    outcome: Outcome
    front: Sequence[Point]


def results_of(searched: Sequence[Searched], prompts: int) -> list[SeedResult]:
    """The results of searches, their fronts measured in the same box. prompts: number of target prompts."""
    box = box_of([each.front for each in searched], prompts)
    return [SeedResult(each.seed, each.outcome, hypervolume(each.front, box)) for each in searched]


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and extremes of one figure over seeds."""

    mean: float
    deviation: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least two values. Raises ValueError for fewer."""
    if len(values) < 2:
        raise ValueError("a spread needs at least two values")
    return Spread(statistics.mean(values), statistics.stdev(values), min(values), max(values))


def spreads(results: Sequence[SeedResult]) -> dict[str, Spread]:
    """The spread of each figure of the chosen edits on held-out prompts, and of the fronts."""
    figures = {
        "held-out refusals": [float(each.outcome.edited.refusals) for each in results],
        "held-out KL, first answer token": [each.outcome.kl.mean for each in results],
        f"held-out {results[0].outcome.answer_tokens.title}": [
            each.outcome.answer_kl.mean for each in results
        ],
        "hypervolume of the front": [each.hypervolume for each in results],
    }
    return {name: spread(values) for name, values in figures.items()}
