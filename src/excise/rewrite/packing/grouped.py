"""Integers with a scale and a zero point for each group of inputs: GPTQ, AWQ, compressed-tensors.

A group is a set of inputs of one output; its numbers are (integer − zero point) · scale. A group keeps its
grid if the edited numbers lie within the grid's range or at most half a step beyond. Any other group gets a
new grid: the smallest scale that covers its numbers, and a new zero point except in symmetric formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.errors import SaveError
from excise.rewrite.packing.packed_integers import PackedIntegers
from excise.rewrite.packing.rounding import to_integers

_BEYOND = 0.5
"""In steps: how far a number may lie beyond its grid, to be clamped to the end of the grid."""


@dataclass(frozen=True)
class GroupedIntegers:
    """A matrix of integers packed into words.

    inputs, outputs: of the linear layer. Integers, scales and zero points are [input, output], transposed if
    `outputs_first`. Words run along the inputs, or along the outputs if `across`; words of zero points
    always run along the outputs. offset: added to a stored zero point. symmetric: zero points are fixed, in
    the middle of the range if not stored. Scales: "scale" for each group and output; optionally "zero", and
    "group", the group of each input. reordered: "group" is used; otherwise groups are consecutive inputs.
    """

    name: str
    inputs: int
    outputs: int
    words: PackedIntegers
    across: bool = False
    outputs_first: bool = False
    offset: int = 0
    symmetric: bool = True
    transposed: bool = True
    reordered: bool = False

    @property
    def changed_scales(self) -> tuple[str, ...]:
        """See `Packing`."""
        return ("scale",) if self.symmetric else ("scale", "zero")

    @property
    def _largest(self) -> int:
        return (1 << self.words.bits) - 1

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """(Integer − zero point) · scale."""
        numbers = self._integers(codes)
        scale, zero = self._turned(scales["scale"]), self._zeros(scales)
        for group, inputs in self._groups(scales):
            some = numbers[inputs]
            numbers[inputs] = some.sub_(zero[group]).mul_(scale[group].to(torch.float32))
        return self._turned(numbers)

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding; writes scales and zero points of new grids into `scales`."""
        numbers, scale, zero = (
            self._turned(values),
            self._turned(scales["scale"]),
            self._zeros(scales),
        )
        padded = codes.shape[1 if self.outputs_first else 0] * self.words.period // self.words.width
        found = torch.zeros(self.inputs if self.across else padded, self.outputs, dtype=torch.int16)
        for group, inputs in self._groups(scales):
            some = numbers[inputs]
            step, origin = self._grid(some, scale[group], zero[group])
            safe = torch.where(step == 0, torch.ones_like(step), step)
            found[inputs] = to_integers(some.div_(safe).add_(origin), 0, self._largest, rng)
            # An unchanged grid writes back the same bits.
            scale[group] = step
            zero[group] = origin
        if not self.symmetric:
            self._put_zeros(zero, scales["zero"])
        packed = self.words.pack(found.T).T if self.across else self.words.pack(found)
        return self._turned(packed)

    def _grid(self, numbers: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, [output], for numbers [input, output] of one group."""
        step = scale.to(torch.float32)
        low, high = numbers.amin(0), numbers.amax(0)
        ends = torch.stack([low, high]) / step + zero
        # A step of zero has no grid: any number but zero gives an infinite end.
        still = (low == 0) & (high == 0)
        fits = still | (
            (ends.amin(0) >= -_BEYOND)
            & (ends.amax(0) <= self._largest + _BEYOND)
            & ends.isfinite().all(0)
        )
        if bool(fits.all()):
            return step, zero
        low, high = low.clamp_max(0), high.clamp_min(0)
        origin = zero
        if not self.symmetric:
            origin = (-low * self._largest / (high - low)).round()
            # A stored zero point cannot be below 0.
            origin = origin.clamp(self.offset, self._largest)
        above, below = self._largest - origin, origin
        wider = torch.maximum(
            torch.where(above > 0, high / above, 0.0), torch.where(below > 0, -low / below, 0.0)
        )
        type_ = torch.finfo(scale.dtype)
        # Rounded up, so that the grid still covers the numbers.
        wider = (wider * (1 + type_.eps) + type_.smallest_normal * type_.eps).to(scale.dtype)
        return (
            torch.where(fits, step, wider.to(torch.float32)),
            torch.where(fits, zero, origin),
        )

    def _turned(self, tensor: Tensor) -> Tensor:
        """Transpose to inputs (or groups) before outputs, and back."""
        return tensor.T if self.outputs_first else tensor

    def _integers(self, codes: Tensor) -> Tensor:
        """[input, output], float32."""
        words = self._turned(codes)
        return (
            self.words.unpack(words.T).T if self.across else self.words.unpack(words)[: self.inputs]
        )

    def _zeros(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Zero points [group, output], float32. Raises SaveError for ambiguous values."""
        if "zero" not in scales:
            groups = self._turned(scales["scale"]).shape[0]
            return torch.full((groups, self.outputs), float(1 << (self.words.bits - 1)))
        stored = self.words.unpack(self._turned(scales["zero"]).T)[: self.outputs].T
        if self.offset and bool((stored == self._largest).any()):
            raise SaveError(
                f"{self.name}: has zero points of 0, which loaders interpret differently in "
                "checkpoint_format gptq; save an adapter instead: to_peft (excise export RUN --adapter DIR)"
            )
        return stored + self.offset

    def _put_zeros(self, zeros: Tensor, into: Tensor) -> None:
        """Write zero points [group, output] in place; padding stays."""
        words = self._turned(into).T
        numbers = self.words.unpack(words)
        numbers[: self.outputs] = (zeros - self.offset).T
        words.copy_(self.words.pack(numbers))

    def _groups(self, scales: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor | slice]]:
        """Each group's number and inputs."""
        count = self._turned(scales["scale"]).shape[0]
        size = self.inputs // count
        stored = scales.get("group")
        # compressed-tensors writes -1 if inputs are in their ordinary order.
        in_order = stored is None or (self.outputs_first and bool((stored == -1).any()))
        if stored is not None and not in_order and not self.reordered:
            # Some tools leave g_idx empty. Loaders disagree about other contents.
            own = torch.arange(self.inputs, dtype=stored.dtype) // size
            if bool(stored.any()) and not torch.equal(stored, own):
                raise SaveError(
                    f"{self.name}: its g_idx reorders inputs although desc_act is off, "
                    "which loaders interpret differently; save an adapter instead: to_peft (excise export "
                    "RUN --adapter DIR)"
                )
            in_order = True
        if in_order:
            yield from ((one, slice(one * size, (one + 1) * size)) for one in range(count))
            return
        assert stored is not None
        if bool(((stored < 0) | (stored >= count)).any()):
            raise SaveError(
                f"{self.name}: an input belongs to a group that has no scale ({count} groups have one); the "
                "checkpoint is damaged"
            )
        sizes = stored.to(torch.int64).bincount(minlength=count).tolist()
        if 0 in sizes:
            raise SaveError(
                f"{self.name}: {sizes.count(0)} of {count} groups have no inputs in g_idx; the checkpoint is "
                "damaged"
            )
        yield from enumerate(torch.split(stored.argsort(stable=True), sizes))
