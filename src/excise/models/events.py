"""What loading a model emits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from excise.events import Event


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
