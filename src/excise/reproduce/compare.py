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
from collections.abc import Mapping
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
    old, new = recorded.tensors, rebuilt.tensors
    if not old or not new:
        raise ReproductionError("a record without tensors cannot be compared")
    names = sorted(old.keys() | new.keys())
    unequal = {name for name in names if _hash(old, name) != _hash(new, name)}
    found: list[ChangeDifference] = []
    explained: set[str] = set()
    for change in recorded.changes:
        here = tuple(name for name in change.tensors if name in unequal)
        if here and all(_comparable(old.get(name), new.get(name)) for name in here):
            found.append(_measured(change, here, old, new, recorded.circumstances.dtype))
            explained.update(here)
    edited = {name for change in recorded.changes for name in change.tensors}
    for name in sorted(unequal - explained):
        why = _why(old.get(name), new.get(name), name in edited)
        found.append(ChangeDifference((name,), None, None, why))
    return RecordComparison(len(names), len(names) - len(unequal), tuple(found))


def _hash(tensors: Mapping[str, RecordedTensor], name: str) -> tuple[object, ...] | None:
    tensor = tensors.get(name)
    return None if tensor is None else (tensor.dtype, tensor.shape, tensor.sha256)


def _comparable(recorded: RecordedTensor | None, rebuilt: RecordedTensor | None) -> bool:
    return (
        recorded is not None
        and rebuilt is not None
        and (recorded.dtype, recorded.shape) == (rebuilt.dtype, rebuilt.shape)
        and recorded.sketch is not None
        and rebuilt.sketch is not None
    )


def _measured(
    change: Change,
    names: tuple[str, ...],
    old: Mapping[str, RecordedTensor],
    new: Mapping[str, RecordedTensor],
    dtype: str,
) -> ChangeDifference:
    gap = sum(
        (a - b) ** 2
        for name in names
        for a, b in zip(old[name].sketch or (), new[name].sketch or (), strict=True)
    )
    if not math.isfinite(gap) or change.size <= 0:
        return ChangeDifference(
            names, None, None, "holds numbers that are not finite, or nothing was changed"
        )
    moved = TOLERANCE.get(dtype, TOLERANCE["float32"]) * change.size
    noise = math.hypot(
        *(
            _SPACING.get(old[name].dtype, _PACKED_SPACING) * (old[name].norm or 0.0)
            for name in change.tensors
        )
    )
    allowed = math.sqrt(moved**2 + moved * noise)
    return ChangeDifference(names, math.sqrt(gap) / change.size, allowed / change.size)


def _why(recorded: RecordedTensor | None, rebuilt: RecordedTensor | None, edited: bool) -> str:
    if rebuilt is None:
        return "is missing in the rebuilt model"
    if recorded is None:
        return "is missing in the record"
    if (recorded.dtype, recorded.shape) != (rebuilt.dtype, rebuilt.shape):
        return (
            f"was {recorded.dtype} {list(recorded.shape)}, is {rebuilt.dtype} {list(rebuilt.shape)}"
        )
    if edited:
        return "was edited, and the record cannot explain the difference"
    return "was not edited, but differs: the original is another model"
