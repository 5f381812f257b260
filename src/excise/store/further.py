"""Figures of the chosen trial beside those of every report, as values and in records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from excise.scorers.scorer import PROMPTS, Better, Score
from excise.scorers.statistics import Estimate, Share


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval, in the unit of the figure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Further:
    """A figure of one scorer, on held-out prompts.

    name: of the scorer. n: number of prompts, texts or questions. original: of the original model; None if
    the scorer compares both models, or failed on the original.
    """

    name: str
    title: str
    unit: str
    better: Better
    n: int
    original: Value | None
    edited: Value

    @classmethod
    def of(cls, name: str, original: Score | None, edited: Score) -> Further:
        """The figure of a scorer's scores."""
        before = None if original is None else _value(original)
        title = edited.title or name.replace("_", " ")
        return cls(name, title, edited.unit, edited.better, edited.n, before, _value(edited))

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return self.title if self.unit in ("", PROMPTS) else f"{self.title} ({self.unit})"

    def told(self, value: Value | None) -> str:
        """One of the values as text, empty without it."""
        if value is None:
            return ""
        if self.unit == PROMPTS:
            return str(Share(round(value.value), self.n))
        return str(Estimate(value.value, value.low, value.high))


def _value(score: Score) -> Value:
    return Value(score.value, score.low, score.high)


def further_json(further: Sequence[Further]) -> dict[str, object]:
    """The key that `further_in` reads; no key without figures."""
    return {"further": [asdict(each) for each in further]} if further else {}


def further_in(held_out: Mapping[str, Any]) -> tuple[Further, ...]:
    """The further figures in a record."""
    return tuple(
        Further(
            **{
                **each,
                "original": None if each["original"] is None else Value(**each["original"]),
                "edited": Value(**each["edited"]),
            }
        )
        for each in held_out.get("further", ())
    )
