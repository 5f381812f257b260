"""Events of an experiment."""

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
    """Memory ran out. slots: the new number of prompts in a batch."""

    slots: int


@dataclass(frozen=True)
class BatchSizeFound(Event):
    """The number of prompts in a decoding batch."""

    slots: int


@dataclass(frozen=True)
class ResponsePrefixFound(Event):
    """The common beginning of all answers, which is given to the model; may be empty.

    template_arguments: arguments that switch thinking off in the model's chat template.
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
    """Directions and operators are ready. kinds: from which the search chooses."""

    kinds: tuple[str, ...]
    seconds: float
