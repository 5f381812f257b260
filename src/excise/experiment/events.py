"""What an experiment emits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from excise.events import Event


@dataclass(frozen=True)
class Examined(Event):
    """Layers, matrices of each component, and coverage of each layer."""

    layers: int
    matrices: Mapping[str, int]
    coverage: tuple[float, ...]


@dataclass(frozen=True)
class BatchReduced(Event):
    """Memory ran out; so many prompts at a time from now on."""

    slots: int


@dataclass(frozen=True)
class BatchSizeFound(Event):
    """The number of prompts that decode at a time."""

    slots: int


@dataclass(frozen=True)
class ResponsePrefixFound(Event):
    """What every answer begins with and is given to the model; empty if nothing.

    template_arguments: those that were found to switch thinking off in the model's chat template.
    """

    text: str
    template_arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BaselineMeasured(Event):
    """Refusals of the original model on target prompts of one part ("search" or "held_out")."""

    part: str
    refusals: int
    prompts: int


@dataclass(frozen=True)
class DirectionsFound(Event):
    """Directions and operators are ready. kinds: those that the search may choose from."""

    kinds: tuple[str, ...]
    seconds: float
