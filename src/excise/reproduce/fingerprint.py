"""The fingerprint of a stored tensor: the hash of its bytes, and a sketch that estimates distances.

A hash shows that two tensors differ; the size of the difference needs both tensors, or their sketches. A
sketch is sixteen numbers, linear in the tensor: the distance of two sketches estimates ‖A − B‖.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from excise.reproduce.record import RecordedTensor

BUCKETS = 16
_SEED = 20250101
_CHUNK = 1 << 16
"""Numbers in a piece, which fits into the processor's cache as float64: ten times as fast as larger pieces. A
multiple of 64, the number of signs in a random word."""


def fingerprint(
    dtype: str, shape: tuple[int, ...], data: bytes | bytearray, numbers: Iterable[Tensor] | None
) -> RecordedTensor:
    """The record of a tensor stored as `data`.

    numbers: its numbers, for norm and sketch; of a packed tensor each unpacked matrix. None omits both.
    """
    digest = hashlib.sha256(data).hexdigest()
    if numbers is None:
        return RecordedTensor(dtype=dtype, shape=shape, sha256=digest)
    norm, buckets = sketch(numbers)
    return RecordedTensor(dtype=dtype, shape=shape, sha256=digest, norm=norm, sketch=buckets)


def sketch(pieces: Iterable[Tensor]) -> tuple[float, tuple[float, ...]]:
    """‖A‖ and the count sketch of A, float64 arithmetic.

    pieces: A in parts of any shape, one in memory at a time; zeros pad each to a multiple of 64. Number i
    is added with a random sign to bucket i mod 16. The squared distance of two sketches is an unbiased
    estimate of ‖A − B‖², with a relative standard deviation of √(2/16) if the difference is spread over the
    buckets: the distance is correct within about 20 %. Source: Charikar, Chen and Farach-Colton 2002; as a
    projection, Weinberger et al. 2009 (arXiv 0902.2206). The signs are bits of numpy's PCG64, whose stream
    numpy promises to keep.
    """
    bits = np.random.PCG64(_SEED)
    buckets, squares = np.zeros(BUCKETS), 0.0
    for piece in pieces:
        flat = piece.reshape(-1)
        for start in range(0, len(flat), _CHUNK):
            values = flat[start : start + _CHUNK].to(torch.float64).numpy()
            words = np.asarray(bits.random_raw(-(-len(values) // 64)), dtype="<u8")
            ones = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(values)]
            signed = values * (ones.astype(np.int8) * np.int8(2) - np.int8(1))
            rows = np.pad(signed, (0, -len(signed) % BUCKETS)).reshape(-1, BUCKETS)
            # A product, because summing over the first axis is slow.
            buckets += np.ones(len(rows)) @ rows
            squares += float(values @ values)
    return float(np.sqrt(squares)), tuple(float(one) for one in buckets)
