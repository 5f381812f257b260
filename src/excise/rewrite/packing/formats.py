"""Quantised formats of checkpoints: decoding codes and scales, and encoding edited numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from excise.rewrite.packing.rounding import to_integers, to_levels


class Packing(Protocol):
    """The format of a packed matrix [row, column]. Experts are packed one by one, along the leading axis."""

    @property
    def name(self) -> str:
        """The format's name for people."""

    @property
    def transposed(self) -> bool:
        """True if `decode` returns the transpose of the parameter."""

    @property
    def changed_scales(self) -> tuple[str, ...]:
        """The scales that `encode` may change, by the format's names; empty if the grid is fixed."""

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """The numbers, float32."""

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Codes for `values`, shaped like `codes`. Overwrites `values` and `changed_scales`."""


@dataclass(frozen=True)
class Packed:
    """How a stored tensor is packed.

    packing: None if it is not quantised. codes: their stored name. scales: the format's name → stored name.
    beside: stored names of further tensors of the format.
    """

    packing: Packing | None
    codes: str
    scales: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


FLOAT8_LEVELS = {
    dtype: torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float32)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
}
"""The number that each byte encodes."""


def to_codes(values: Tensor, levels: Tensor, rng: torch.Generator) -> Tensor:
    """The code of a level for each value, rounded stochastically; uint8. levels: by code, in any order."""
    codes = torch.arange(len(levels))[levels.isfinite()]
    ascending, order = levels[codes].sort(stable=True)
    first = torch.ones_like(ascending, dtype=torch.bool)
    first[1:] = ascending[1:] != ascending[:-1]  # Zero has two codes.
    index = to_levels(values, ascending[first], rng).to(torch.int32)
    return codes[order][first].to(torch.uint8)[index]


@dataclass(frozen=True)
class Float8:
    """FP8 numbers times a scale for each block (DeepSeek), each row, or the matrix (compressed-tensors).

    block: rows and columns of a block; None without blocks.
    """

    block: tuple[int, int] | None
    name: str = "FP8"
    transposed: bool = False
    changed_scales: tuple[str, ...] = ()

    def _scale(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        scale = scales["scale"].to(torch.float32)
        rows, columns = codes.shape
        if self.block is not None:
            # Blocks are checked first, because there may be as many blocks as rows.
            down, across = self.block
            if scale.shape == (-(-rows // down), -(-columns // across)):
                whole = scale.repeat_interleave(down, 0).repeat_interleave(across, 1)
                return whole[:rows, :columns]
        if scale.numel() == 1:
            return scale.reshape(1, 1)
        if scale.numel() == rows:
            return scale.reshape(rows, 1)
        raise ValueError(f"FP8 scales of shape {tuple(scale.shape)} for {rows} × {columns}")

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """Number times scale."""
        return codes.to(torch.float32).mul_(self._scale(codes, scales))

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding to FP8 numbers."""
        scaled = values.div_(self._scale(codes, scales))
        return to_codes(scaled, FLOAT8_LEVELS[codes.dtype], rng).view(codes.dtype)


@dataclass(frozen=True)
class Int8Rows:
    """Integers of 8 bits times a scale for each row, over `divisor` (bitsandbytes keeps row maxima)."""

    divisor: float
    name: str
    transposed: bool = False
    changed_scales: tuple[str, ...] = ()

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """Number times scale."""
        return codes.to(torch.float32).mul_(self._step(scales))

    def _step(self, scales: Mapping[str, Tensor]) -> Tensor:
        return scales["scale"].to(torch.float32).reshape(-1, 1) / self.divisor

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding to integers."""
        step = self._step(scales).clamp_min(torch.finfo(torch.float32).tiny)
        return to_integers(values.div_(step), -128, 127, rng).to(torch.int8)


def _factors(scales: Mapping[str, Tensor]) -> Tensor:
    """The factor of each number [row, column] of bitsandbytes: the largest magnitude of its block.

    With double quantisation, the factors are 8-bit codes with scales and an offset.
    """
    state = json.loads(bytes(scales["state"].tolist()))
    rows, columns = state["shape"]
    largest = scales["absmax"]
    if "nested_absmax" in scales:
        inner = scales["nested_quant_map"].to(torch.float32)[largest.to(torch.int32)]
        outer = scales["nested_absmax"].repeat_interleave(state["nested_blocksize"])[: len(inner)]
        largest = inner * outer + state["nested_offset"]
    flat = largest.to(torch.float32).repeat_interleave(state["blocksize"])
    return flat[: rows * columns].view(rows, columns)


@dataclass(frozen=True)
class BitsAndBytes4:
    """NF4 or FP4 of bitsandbytes: two codes a byte, the first in the high bits; blocks run along rows."""

    name: str = "bitsandbytes 4-bit"
    transposed: bool = False
    changed_scales: tuple[str, ...] = ()

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """Level times the factor of its block."""
        factors, levels = _factors(scales), scales["quant_map"].to(torch.float32)
        flat = codes.flatten()
        values = torch.empty(len(flat), 2)
        values[:, 0] = levels[(flat >> 4).to(torch.int32)]
        values[:, 1] = levels[(flat & 15).to(torch.int32)]
        return values.view(-1)[: factors.numel()].view(factors.shape).mul_(factors)

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding to levels."""
        scaled = values.div_(_factors(scales).clamp_min_(torch.finfo(torch.float32).tiny))
        found = to_codes(scaled, scales["quant_map"].to(torch.float32), rng).view(-1)
        if len(found) % 2:
            found = torch.cat([found, found.new_zeros(1)])
        return ((found[0::2] << 4) | found[1::2]).view(codes.shape)


FP4_LEVELS = torch.tensor(
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
)
"""E2M1: the number that each 4-bit code encodes (OCP Microscaling Formats 1.0, table 6)."""
_SCALE_BIAS = 127


@dataclass(frozen=True)
class Mxfp4:
    """MXFP4: blocks of 32 4-bit numbers along the inputs, the first in the low bits, with an exponent.

    Stored as [output, block, 16] for a parameter [input, output].
    """

    name: str = "MXFP4"
    transposed: bool = True
    changed_scales: tuple[str, ...] = ()

    def _scale(self, scales: Mapping[str, Tensor]) -> Tensor:
        return (scales["scale"].to(torch.float32) - _SCALE_BIAS).exp2().unsqueeze(-1)

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """Level times two to the exponent of its block: [output, input]."""
        values = torch.empty(*codes.shape, 2)
        values[..., 0] = FP4_LEVELS[(codes & 15).to(torch.int32)]
        values[..., 1] = FP4_LEVELS[(codes >> 4).to(torch.int32)]
        return values.flatten(-2).mul_(self._scale(scales)).flatten(-2)

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding to levels."""
        scaled = values.view(*codes.shape[:-1], 2 * codes.shape[-1]).div_(self._scale(scales))
        found = to_codes(scaled, FP4_LEVELS, rng)
        return found[..., 0::2] | (found[..., 1::2] << 4)
