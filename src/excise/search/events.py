"""What a search emits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.engine.work import Work
from excise.events import Event
from excise.search.front import Point


@dataclass(frozen=True)
class SearchStarted(Event):
    """The search begins or goes on. done: trials that the study already holds."""

    trials: int
    done: int


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial is being scored."""

    number: int
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial was scored, or failed (reason says why; refusals and kl are then None).

    dominated: an earlier trial equals or betters it in both; its refusals are then a lower bound. seconds:
    its share of what its batch took. elapsed, remaining: seconds of this search, remaining None while
    unknown. peak_memory: bytes, by device that the model uses. front: the best trade-offs so far.
    """

    number: int
    parameters: Mapping[str, object]
    refusals: int | None
    prompts: int
    kl: float | None
    dominated: bool
    seconds: float
    reason: str | None
    done: int
    trials: int
    elapsed: float
    remaining: float | None
    peak_memory: Mapping[str, int]
    front: tuple[Point, ...]


@dataclass(frozen=True)
class RateMeasured(Event):
    """How fast the machine multiplies matrices in the model's data type: the peak for WorkDone."""

    dtype: str
    operations_per_second: float


@dataclass(frozen=True)
class WorkDone(Event):
    """What the model was run on since the last event of this kind: every few seconds, and after every trial.

    candidates: how many ran in one batch. share: of the measured matrix rate, counting only the operations
    that the tokens need.
    """

    work: Work
    candidates: int
    share: float


@dataclass(frozen=True)
class SearchEnded(Event):
    """The search is over. why: "done", "stopped" (by the user), "time" or "failing"."""

    why: str
    front: tuple[Point, ...]
