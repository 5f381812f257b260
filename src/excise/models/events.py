"""Events of loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from excise.events import Event


@dataclass(frozen=True)
class DeviceFound(Event):
    """A device that may hold the model.

    memory: of the device, in bytes. limit: most bytes of weights, None without a limit.
    """

    device: str
    memory: int
    limit: int | None = None


@dataclass(frozen=True)
class ModelLoaded(Event):
    """The model is in memory. attempts: data types that failed before, with the reasons.

    places: bytes of weights by device: "cuda:0", "cpu", …, "offloaded" for weights moved in for each pass.
    """

    name: str
    dtype: str
    bytes: int
    seconds: float
    attempts: tuple[str, ...]
    places: Mapping[str, int] = field(default_factory=dict)
