"""What saving emits."""

from __future__ import annotations

from dataclasses import dataclass

from excise.events import Event


@dataclass(frozen=True)
class Streamed(Event):
    """Weights were written, or read again. stage: "write" or "verify"; done, total: bytes."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Verified(Event):
    """What was written was read again. edited, untouched: tensors; the untouched are bit-identical.

    kept: share of the edit that packed writers keep after rounding; 1 where they are plain.
    """

    edited: int
    untouched: int
    kept: float


@dataclass(frozen=True)
class Saved(Event):
    """Something was written. what: "model" or "adapter"."""

    what: str
    path: str
