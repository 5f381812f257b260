"""Events of saving."""

from __future__ import annotations

from dataclasses import dataclass

from excise.events import Event


@dataclass(frozen=True)
class Streamed(Event):
    """Weights were written or verified. stage: "write" or "verify"; done, total: bytes."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Verified(Event):
    """The written weights were read again. edited, untouched: tensors; the untouched are bit-identical.

    kept: share of the edit that remains in packed writers after rounding; 1 for plain writers.
    """

    edited: int
    untouched: int
    kept: float


@dataclass(frozen=True)
class Saved(Event):
    """A model or adapter was written. what: "model" or "adapter"."""

    what: str
    path: str
