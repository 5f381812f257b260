"""Quantised blocks of GGUF files: decoded by the gguf package, encoded with their old scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from excise.errors import SaveError
from excise.rewrite.packing.formats import FP4_LEVELS, to_codes
from excise.rewrite.packing.rounding import to_integers

Bytes = npt.NDArray[np.uint8]

_NUMBERS = 32
"""Numbers in a block of the types that excise writes."""


@dataclass(frozen=True)
class _Layout:
    """A block of integers: scale (float16), optional minimum (float16), optional high bits, low bits.

    zero: the integer that encodes 0 without a minimum.
    """

    bits: int
    zero: int
    minimum: bool


_LAYOUTS = {
    Kind.Q4_0: _Layout(4, 8, False),
    Kind.Q4_1: _Layout(4, 0, True),
    Kind.Q5_0: _Layout(5, 16, False),
    Kind.Q5_1: _Layout(5, 0, True),
    Kind.Q8_0: _Layout(8, 0, False),
}
_WRITTEN = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.BF16)
"""Types that excise converts other types to, smallest first."""


def bits_of(kind: Kind) -> float:
    """Bits for each number, scales included."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return float(8 * size / numbers)


def written_as(kind: Kind, columns: int) -> Kind:
    """The type of the edited tensor: its own if excise can write it, else the next larger type."""
    if kind in _LAYOUTS or kind is Kind.MXFP4:
        return kind
    for other in _WRITTEN:
        if bits_of(other) > bits_of(kind) and columns % gguf.GGML_QUANT_SIZES[other][0] == 0:
            return other
    raise SaveError(f"{kind.name} is not a type that tensors of writers have")


@dataclass(frozen=True)
class GgufBlocks:
    """Rows of blocks of one type. origin: the former type of the codes, if it was another type."""

    kind: Kind
    origin: Kind | None = None
    transposed: bool = False
    changed_scales: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The gguf package's name of the type."""
        return str(self.kind.name)

    def decode(self, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """Decoded by the gguf package. Raises SaveError for an unknown type."""
        try:
            values = gguf.quants.dequantize(codes.numpy(), self.kind)
        except NotImplementedError as error:
            raise SaveError(f"the gguf package cannot unpack {self.name}") from error
        return torch.from_numpy(values)

    def encode(
        self, values: Tensor, codes: Tensor, scales: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """Stochastic rounding with the blocks' scales; from another type, encoded by the gguf package."""
        if self.origin is not None:
            # The numbers lie on no grid of the new type, so rounding to the nearest does not undo the edit.
            return torch.from_numpy(gguf.quants.quantize(values.numpy(), self.kind))
        size = gguf.GGML_QUANT_SIZES[self.kind][1]
        blocks = codes.numpy().reshape(-1, size)
        numbers = values.view(-1, _NUMBERS)
        if self.kind is Kind.MXFP4:
            packed = _mxfp4(numbers, blocks, rng)
        else:
            packed = _integers(numbers, blocks, _LAYOUTS[self.kind], rng)
        return torch.from_numpy(packed.reshape(codes.shape))


def _integers(numbers: Tensor, blocks: Bytes, layout: _Layout, rng: torch.Generator) -> Bytes:
    halves = 2 + 2 * layout.minimum
    factors = torch.from_numpy(blocks[:, :halves].copy().view(np.float16).astype(np.float32))
    step = torch.where(factors[:, :1] == 0, 1.0, factors[:, :1])
    if layout.minimum:
        numbers.sub_(factors[:, 1:])
    numbers.div_(step).add_(layout.zero)
    head = blocks[:, :halves]
    if layout.bits == 8:
        signed = to_integers(numbers, -128, 127, rng).numpy().astype(np.int8)
        return np.concatenate([head, signed.view(np.uint8)], axis=1)
    largest = (1 << layout.bits) - 1
    found: Bytes = to_integers(numbers, 0, largest, rng).numpy().astype(np.uint8)
    if layout.bits == 5:
        head = np.concatenate([head, np.packbits(found >> 4, axis=1, bitorder="little")], axis=1)
    return np.concatenate([head, _nibbles(found & np.uint8(15))], axis=1)


def _mxfp4(numbers: Tensor, blocks: Bytes, rng: torch.Generator) -> Bytes:
    # The exponent has a bias of 127.
    exponent = torch.from_numpy(blocks[:, :1].astype(np.float32)) - 127
    found: Bytes = to_codes(numbers.div_(exponent.exp2()), FP4_LEVELS, rng).numpy()
    return np.concatenate([blocks[:, :1], _nibbles(found)], axis=1)


def _nibbles(codes: Bytes) -> Bytes:
    """The first half of a block in the low 4 bits of its bytes, the second half in the high 4 bits."""
    return codes[:, : _NUMBERS // 2] | (codes[:, _NUMBERS // 2 :] << np.uint8(4))
