"""What a run emits beside its experiment, its search and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from excise.events import Event
from excise.store.record import Outcome

if TYPE_CHECKING:
    from excise.app.seeds import SeedResult, Spread


@dataclass(frozen=True)
class DeviceFound(Event):
    """A device that the model may come to lie on; one event for each.

    memory: its own, in bytes (the host's for a CPU). limit: bytes of weights that it may hold, None if any.
    """

    device: str
    memory: int
    limit: int | None = None


@dataclass(frozen=True)
class ModelLoaded(Event):
    """The model is in memory. attempts: data types that failed before, with the reason.

    places: bytes of its weights by place: "cuda:0", "cpu", …, "offloaded" for what is moved in for each pass.
    """

    name: str
    dtype: str
    bytes: int
    seconds: float
    attempts: tuple[str, ...]
    places: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined(Event):
    """Layers, matrices of each component, and coverage of each layer."""

    layers: int
    matrices: Mapping[str, int]
    coverage: tuple[float, ...]


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
class SeedsCompared(Event):
    """The search was repeated with other seeds."""

    results: tuple[SeedResult, ...]
    spreads: Mapping[str, Spread]
