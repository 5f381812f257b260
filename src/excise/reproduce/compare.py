"""Two records of the same edit compared: the same, the same within rounding, or different.

A model made again on another machine is hardly ever the same to the bit: sums of floating-point numbers
depend on their order, which depends on the processor, the number of threads and the library. What that
comes to is measured by `bench/rounding.py`. How much is allowed, for the matrices of one writer:

    ‖A − B‖² ≤ (τ C)² + τ C ε N

C is the size of the change, ‖W' − W‖, and τ the share of it by which directions differ from machine to
machine. What is left of that after storing in few bits is the second term: a number that moves by x, less
than the spacing s of its data type, is stored s apart with probability x / s, so that its expected squared
move is x s; summed over all, by Cauchy and Schwarz, at most ‖x‖ ‖s‖ ≤ (τ C)(ε N), with N = ‖W'‖ and ε
the relative spacing of the data type.
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
"""τ by the data type that the model ran in. float32: forty times the largest that `bench/rounding.py` showed.
Of 16-bit types it is less than what another machine's rounding was: more would tell hardly any edit from
another. See docs/guides/reproduce.md."""
_SPACING: Mapping[str, float] = {"F64": 2**-52, "F32": 2**-23, "F16": 2**-10, "BF16": 2**-7}
_PACKED_SPACING = 0.25
"""Of data types of eight bits and fewer."""


@dataclass(frozen=True)
class ChangeDifference:
    """Tensors of one change that differ. share: ‖A − B‖ / C, estimated; allowed: the bound on it.

    share is None where the two cannot be measured against each other: why says why not.
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
    """What came of it. tensors: how many there are; same: how many of them are bit-identical."""

    tensors: int
    same: int
    differences: tuple[ChangeDifference, ...]

    @property
    def sameness(self) -> Sameness:
        """In one word or two."""
        if not self.differences:
            return "same"
        explained = all(one.explained for one in self.differences)
        return "within rounding" if explained else "different"


def compare_records(recorded: Reproduction, rebuilt: Reproduction) -> RecordComparison:
    """Compare what was saved with what was made again, tensor by tensor.

    Raises ReproductionError for a record that names no tensor.
    """
    theirs, ours = recorded.tensors, rebuilt.tensors
    if not theirs or not ours:
        raise ReproductionError("a record names no tensor: there is nothing to compare")
    names = sorted(theirs.keys() | ours.keys())
    unequal = {name for name in names if _hash(theirs, name) != _hash(ours, name)}
    found: list[ChangeDifference] = []
    explained: set[str] = set()
    dtype = recorded.circumstances.dtype
    for change in recorded.changes:
        here = tuple(name for name in change.tensors if name in unequal)
        if here and all(_comparable(theirs.get(name), ours.get(name)) for name in here):
            found.append(_measured(change, here, theirs, ours, dtype))
            explained.update(here)
    edited = {name for change in recorded.changes for name in change.tensors}
    found += [
        ChangeDifference(
            (name,), None, None, _why(theirs.get(name), ours.get(name), name in edited)
        )
        for name in sorted(unequal - explained)
    ]
    return RecordComparison(len(names), len(names) - len(unequal), tuple(found))


def _hash(tensors: Mapping[str, RecordedTensor], name: str) -> tuple[object, ...] | None:
    one = tensors.get(name)
    return None if one is None else (one.dtype, one.shape, one.sha256)


def _comparable(one: RecordedTensor | None, other: RecordedTensor | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one.dtype, one.shape) == (other.dtype, other.shape)
        and one.sketch is not None
        and other.sketch is not None
    )


def _measured(
    change: Change,
    names: tuple[str, ...],
    theirs: Mapping[str, RecordedTensor],
    ours: Mapping[str, RecordedTensor],
    dtype: str,
) -> ChangeDifference:
    gap = sum(
        (a - b) ** 2
        for name in names
        for a, b in zip(theirs[name].sketch or (), ours[name].sketch or (), strict=True)
    )
    if not math.isfinite(gap) or change.size <= 0:
        return ChangeDifference(
            names, None, None, "holds numbers that are not finite, or nothing was changed"
        )
    moved = TOLERANCE.get(dtype, TOLERANCE["float32"]) * change.size
    noise = math.hypot(
        *(
            _SPACING.get(theirs[name].dtype, _PACKED_SPACING) * (theirs[name].norm or 0.0)
            for name in change.tensors
        )
    )
    allowed = math.sqrt(moved**2 + moved * noise)
    return ChangeDifference(names, math.sqrt(gap) / change.size, allowed / change.size)


def _why(one: RecordedTensor | None, other: RecordedTensor | None, edited: bool) -> str:
    if other is None:
        return "is missing now"
    if one is None:
        return "was not there then"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"was {one.dtype} {list(one.shape)}, is {other.dtype} {list(other.shape)}"
    if edited:
        return "was edited, and differs by what the record does not tell"
    return "was not edited, and differs: the original is another one"
