"""Two records of the same edit compared: the same, the same within rounding, or different.

A model that is rebuilt on another machine is rarely bit-identical: sums of floating-point numbers depend on
their order, and the order depends on the processor, the number of threads and the library.
`bench/rounding.py` measures the effect. The bound for the matrices of one writer:

    ‖A − B‖² ≤ (τ C)² + τ C ε N

C is the size of the change, ‖W' − W‖, and τ the share of it by which directions differ between machines. The
second term is the effect of rounding to the stored data type: a number that moves by x, less than the spacing
s of the type, is stored s apart with probability x / s, so its expected squared move is x s. By Cauchy and
Schwarz the sum over all numbers is at most ‖x‖ ‖s‖ ≤ (τ C)(ε N), with N = ‖W'‖ and ε the relative spacing of
the type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from excise.errors import ReproductionError
from excise.reproduce.record import Change, RecordedTensor, Reproduction

Sameness = Literal["same", "within rounding", "different"]

TOLERANCE: Mapping[str, float] = {"float32": 5e-3, "float16": 0.1, "bfloat16": 0.1}
"""τ by the data type that the model ran in. float32: forty times the largest value of `bench/rounding.py`.
16-bit types: less than the effect of another machine, because a larger τ would accept most other edits. See
docs/guides/reproduce.md."""
_SPACING: Mapping[str, float] = {"F64": 2**-52, "F32": 2**-23, "F16": 2**-10, "BF16": 2**-7}
_PACKED_SPACING = 0.25
"""For data types of at most eight bits."""


@dataclass(frozen=True)
class ChangeDifference:
    """Differing tensors of one change. share: the estimate of ‖A − B‖ / C; allowed: its bound.

    share is None if the tensors cannot be compared; why is the reason.
    """

    tensors: tuple[str, ...]
    share: float | None
    allowed: float | None
    why: str = ""

    @property
    def explained(self) -> bool:
        """True if rounding explains it."""
        return self.share is not None and self.allowed is not None and self.share <= self.allowed


@dataclass(frozen=True)
class RecordComparison:
    """The result of a comparison. tensors: their number; same: the number of bit-identical tensors."""

    tensors: int
    same: int
    differences: tuple[ChangeDifference, ...]

    @property
    def sameness(self) -> Sameness:
        """The result in words."""
        if not self.differences:
            return "same"
        explained = all(each.explained for each in self.differences)
        return "within rounding" if explained else "different"


def compare_records(recorded: Reproduction, rebuilt: Reproduction) -> RecordComparison:
    """Compare the recorded model with the rebuilt model, tensor by tensor.

    Raises ReproductionError for a record without tensors.
    """
    if not recorded.tensors or not rebuilt.tensors:
        raise ReproductionError("a record without tensors cannot be compared")
    pairs = {
        name: (recorded.tensors.get(name), rebuilt.tensors.get(name))
        for name in sorted(recorded.tensors.keys() | rebuilt.tensors.keys())
    }
    unequal = {name: pair for name, pair in pairs.items() if len(set(map(_identity, pair))) > 1}
    found: list[ChangeDifference] = []
    explained: set[str] = set()
    for change in recorded.changes:
        here = tuple(name for name in change.tensors if name in unequal)
        sketches = [_sketches(*unequal[name]) for name in here]
        if here and all(sketches):
            stored = (recorded.tensors[name] for name in change.tensors)
            found.append(_measured(change, here, sketches, stored, recorded.circumstances.dtype))
            explained.update(here)
    edited = {name for change in recorded.changes for name in change.tensors}
    found += [
        ChangeDifference((name,), None, None, _why(*pair, name in edited))
        for name, pair in unequal.items()
        if name not in explained
    ]
    return RecordComparison(len(pairs), len(pairs) - len(unequal), tuple(found))


def _identity(one: RecordedTensor | None) -> tuple[object, ...]:
    return () if one is None else (one.dtype, one.shape, one.sha256)


def _sketches(
    one: RecordedTensor | None, other: RecordedTensor | None
) -> list[tuple[float, float]]:
    """Both sketches, number by number; empty if they cannot be compared."""
    if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return []
    mine, theirs = one.sketch or (), other.sketch or ()
    return list(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else []


def _measured(
    change: Change,
    names: tuple[str, ...],
    sketches: Iterable[Iterable[tuple[float, float]]],
    stored: Iterable[RecordedTensor],
    dtype: str,
) -> ChangeDifference:
    gap = sum((a - b) ** 2 for sketch in sketches for a, b in sketch)
    if not math.isfinite(gap) or change.size <= 0:
        return ChangeDifference(
            names, None, None, "holds numbers that are not finite, or nothing was changed"
        )
    moved = TOLERANCE.get(dtype, TOLERANCE["float32"]) * change.size
    noise = math.hypot(
        *(_SPACING.get(one.dtype, _PACKED_SPACING) * (one.norm or 0.0) for one in stored)
    )
    allowed = math.sqrt(moved**2 + moved * noise)
    return ChangeDifference(names, math.sqrt(gap) / change.size, allowed / change.size)


def _why(one: RecordedTensor | None, other: RecordedTensor | None, edited: bool) -> str:
    if other is None:
        return "is missing in the rebuilt model"
    if one is None:
        return "is missing in the record"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"was {one.dtype} {list(one.shape)}, is {other.dtype} {list(other.shape)}"
    if edited:
        return "was edited, and the record cannot explain the difference"
    return "was not edited, but differs: the original is another model"
