"""Events of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.events import Event
from excise.search.front import Point


@dataclass(frozen=True)
class SearchStarted(Event):
    """The search starts or resumes. done: trials that the study already holds."""

    trials: int
    done: int


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial is being scored."""

    number: int
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial was scored, or failed for a reason.

    values: of each objective, None for a failed trial. prompts: number of target prompts. dominated: an
    earlier trial is at least as good in all objectives; values are then bounds.
    seconds: the trial's share of the time of its batches. elapsed, remaining: seconds of this search;
    remaining is None while unknown. peak_memory: bytes, by device. front: the Pareto front so far.
    """

    number: int
    parameters: Mapping[str, object]
    values: Mapping[str, float | None]
    prompts: int
    dominated: bool
    seconds: float
    reason: str | None
    done: int
    trials: int
    elapsed: float
    remaining: float | None
    peak_memory: Mapping[str, int]
    front: tuple[Point, ...]

    @property
    def failed(self) -> bool:
        """True if the trial has no values."""
        return self.reason is not None

    def as_json(self) -> dict[str, object]:
        """The event, with the value of each objective under its name."""
        content = super().as_json()
        del content["values"]
        return content | dict(self.values)


@dataclass(frozen=True)
class WorkDone(Event):
    """The work of a search since the last such event; emitted every few seconds and after every trial.

    tokens: processed by the model, without padding. seconds: wall time. candidates, prompts: numbers that are
    running now.
    """

    tokens: int
    seconds: float
    candidates: int
    prompts: int


@dataclass(frozen=True)
class SearchEnded(Event):
    """The search is over. why: "done", "stopped" (by the user), "time" or "failing"."""

    why: str
    front: tuple[Point, ...]
