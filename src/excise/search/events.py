"""What a search emits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
class WorkDone(Event):
    """What a search did since the last event of this kind: every few seconds, and after every trial.

    tokens: those that went through the model, prompts and answers, without padding. seconds: wall time.
    candidates, prompts: how many of them are under way now.
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
