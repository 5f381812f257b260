"""Integers of a few bits packed into 32-bit words, as in GPTQ, AWQ and compressed-tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

WORD = 32
"""Bits of a word."""


@dataclass(frozen=True)
class PackedIntegers:
    """Integers of `bits` bits, packed one after the other from the lowest bit on.

    If `bits` does not divide 32, an integer may span two words (3 bits: 32 integers in three words). order:
    the integer that each position of a word holds, if they are not in order.
    """

    bits: int
    order: tuple[int, ...] | None = None

    @property
    def period(self) -> int:
        """Number of integers after which the pattern repeats."""
        return WORD // gcd(WORD, self.bits)

    @property
    def width(self) -> int:
        """Number of words that a period takes."""
        return self.bits * self.period // WORD

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """For each position: its integer, and the word and bit at which it begins."""
        for place, number in enumerate(self.order or range(self.period)):
            yield number, *divmod(place * self.bits, WORD)

    def unpack(self, words: Tensor) -> Tensor:
        """From words [word, column], int32, to integers [number, column], float32."""
        count, columns = words.shape[0] // self.width, words.shape[1]
        groups = words.reshape(count, self.width, columns)
        numbers = torch.empty(count, self.period, columns)
        mask = (1 << self.bits) - 1
        for number, word, bit in self._places():
            found = groups[:, word] >> bit
            if (here := WORD - bit) < self.bits:
                # The shift extends the sign; the upper bits come from the next word.
                found = (found & ((1 << here) - 1)) | (groups[:, word + 1] << here)
            numbers[:, number] = found & mask
        return numbers.view(-1, columns)

    def pack(self, numbers: Tensor) -> Tensor:
        """From integers [number, column] to words [word, column], int32."""
        count, columns = numbers.shape[0] // self.period, numbers.shape[1]
        groups = numbers.reshape(count, self.period, columns)
        words = torch.zeros(count, self.width, columns, dtype=torch.int32)
        for number, word, bit in self._places():
            one = groups[:, number].to(torch.int32)
            words[:, word] |= one << bit
            if (here := WORD - bit) < self.bits:
                words[:, word + 1] |= one >> here
        return words.view(-1, columns)
