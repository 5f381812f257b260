"""Events of a run; experiment, search and saving have their own events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.app.spread import SeedResult, Spread
from excise.events import Event
from excise.store.judged import JudgedFront
from excise.store.outcome import Outcome


@dataclass(frozen=True)
class PromptsLoaded(Event):
    """Prompt sets. counts: for example {"target": {"train": 400, "search": 100, "held_out": 100}, …}."""

    counts: Mapping[str, Mapping[str, int]]
    origins: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Chosen(Event):
    """A trial was chosen and measured on held-out prompts. why: in one sentence."""

    outcome: Outcome
    why: str


@dataclass(frozen=True)
class FrontJudged(Event):
    """The answers of the front's trials were judged again by the chosen judge."""

    judged: JudgedFront


@dataclass(frozen=True)
class SeedsCompared(Event):
    """The search was repeated with other seeds."""

    results: tuple[SeedResult, ...]
    spreads: Mapping[str, Spread]
