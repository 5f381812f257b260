"""The size of rounding errors of stored data types, for numbers and matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PRECISION = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8, "F8_E4M3": 4, "F8_E5M2": 3}
"""Bits of the significand, with the implied bit (IEEE 754; OCP 8-bit floating point)."""
_EXPONENT_BITS = 0x7F800000
_MARGIN = 1.5
"""√2 covers two checkpoints that were both rounded from a third; the rest is for the bound's constant."""


def coarser(*dtypes: str) -> str | None:
    """The data type with the fewest significand bits, None if a type is not in the table."""
    if any(dtype not in _PRECISION for dtype in dtypes):
        return None
    return min(dtypes, key=lambda dtype: _PRECISION[dtype])


def half_step(values: Tensor, dtype: str) -> Tensor:
    """Half the distance between neighbouring numbers of `dtype` at each of `values` (float32).

    It is the largest rounding error. Zero is stored exactly.
    """
    # The exponent's bits alone are the power of two below the number.
    powers = (values.contiguous().view(torch.int32) & _EXPONENT_BITS).view(torch.float32)
    return powers * 2.0 ** -_PRECISION[dtype]


def noise_norm(row_squares: Tensor, column_squares: Tensor) -> float:
    """The spectral norm that independent rounding errors of these sizes do not exceed, with a margin.

    row_squares, column_squares: sums over rows and over columns of the squared half steps. A rounding
    error is uniform over ± half a step, so that its variance is a third of the squared half step.
    The largest root of a row's variances plus that of a column's bounds the norm of a random matrix
    (Bandeira and van Handel 2016, Annals of Probability 44, theorem 1.1, up to its logarithmic term).
    """
    rows, columns = float(row_squares.max()), float(column_squares.max())
    return _MARGIN * (math.sqrt(rows / 3) + math.sqrt(columns / 3))
