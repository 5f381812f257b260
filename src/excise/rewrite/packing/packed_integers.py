"""Integers of a few bits in 32-bit words, as GPTQ, AWQ and compressed-tensors keep them."""

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
    """How integers of `bits` bits lie in words: one after the other, from the lowest bit on.

    Where `bits` does not divide 32, an integer may begin in one word and end in the next (3 bits: 32 of them
    in three words). order: which integer of a word each place holds, where they do not lie in order.
    """

    bits: int
    order: tuple[int, ...] | None = None

    @property
    def period(self) -> int:
        """Integers after which the pattern begins anew."""
        return WORD // gcd(WORD, self.bits)

    @property
    def width(self) -> int:
        """PackedIntegers that so many take."""
        return self.bits * self.period // WORD

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """Of each place: the integer it holds, the word it begins in and the bit."""
        for place, number in enumerate(self.order or range(self.period)):
            yield number, *divmod(place * self.bits, WORD)

    def unpack(self, words: Tensor) -> Tensor:
        """PackedIntegers [word, column], int32, as integers [number, column], float32."""
        count, columns = words.shape[0] // self.width, words.shape[1]
        groups = words.reshape(count, self.width, columns)
        numbers = torch.empty(count, self.period, columns)
        mask = (1 << self.bits) - 1
        for number, word, bit in self._places():
            found = groups[:, word] >> bit
            if (here := WORD - bit) < self.bits:
                # The shift repeats the sign, and what is above comes from the next word.
                found = (found & ((1 << here) - 1)) | (groups[:, word + 1] << here)
            numbers[:, number] = found & mask
        return numbers.view(-1, columns)

    def pack(self, numbers: Tensor) -> Tensor:
        """The way back: integers [number, column] as words [word, column], int32."""
        count, columns = numbers.shape[0] // self.period, numbers.shape[1]
        groups = numbers.reshape(count, self.period, columns)
        words = torch.zeros(count, self.width, columns, dtype=torch.int32)
        for number, word, bit in self._places():
            one = groups[:, number].to(torch.int32)
            words[:, word] |= one << bit
            if (here := WORD - bit) < self.bits:
                words[:, word + 1] |= one >> here
        return words.view(-1, columns)
