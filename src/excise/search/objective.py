"""The objectives of a search: figures of scorers that it makes as small, or as large, as it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from excise.scorers.scorer import PROMPTS, Better, Scorer


@dataclass(frozen=True)
class Objective:
    """A figure that a search minimises (better: "less") or maximises ("more").

    unit: of its values; "prompts" if they are numbers of prompts, and so whole numbers.
    """

    name: str
    unit: str
    better: Better = "less"

    @classmethod
    def of(cls, scorer: Scorer) -> Objective:
        """The figure of a scorer as an objective."""
        return cls(scorer.name, scorer.unit, scorer.better)

    def cost(self, value: float) -> float:
        """A value as a number of which less is better."""
        return -value if self.better == "more" else value

    def value(self, cost: float) -> float:
        """The value of a cost; an integer if it counts prompts."""
        value = self.cost(cost)
        return round(value) if self.unit == PROMPTS else value

    def told(self, value: float, digits: int = 4) -> str:
        """A value as text."""
        return str(round(value)) if self.unit == PROMPTS else f"{value:z.{digits}f}"


Objectives = tuple[Objective, ...]
DEFAULT: Objectives = (Objective("refusals", PROMPTS), Objective("kl", "nats"))
MOST = 3
"""Fronts of more objectives hold almost every trial, and nobody can choose from them."""


def objectives_in(record: Mapping[str, Any]) -> Objectives:
    """The objectives in a record; records of searches with the default objectives do not name them."""
    named = record.get("objectives")
    return DEFAULT if named is None else tuple(Objective(**each) for each in named)


def as_json(objectives: Sequence[Objective]) -> dict[str, object]:
    """The key that `objectives_in` reads; no key for the default objectives."""
    if tuple(objectives) == DEFAULT:
        return {}
    return {"objectives": [asdict(each) for each in objectives]}
