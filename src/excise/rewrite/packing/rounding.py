"""Stochastic rounding to the levels of a quantised format, so that an edit survives quantisation.

A quantised weight lies on a grid, and an edit moves most numbers by less than half a step: by about 1/√d of
their size in a matrix of width d, where a step of 4 bits is a third of their size. Rounding to the nearest
level would undo nearly all of the edit. Stochastic rounding (Gupta et al. 2015, arXiv 1502.02551) rounds up
or down with probabilities that keep the mean exact. A number that the edit does not move stays unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ON_A_LEVEL = 1e-3
"""In steps: a number this close to a level is on the level."""
_PIECE = 1 << 20


def to_integers(values: Tensor, low: int, high: int, rng: torch.Generator) -> Tensor:
    """Values in units of a step, rounded stochastically to integers in [low, high]; int16, same shape."""
    rounded = torch.empty(values.shape, dtype=torch.int16)
    for some, there in _pieces(values, rounded):
        nearest = some.round()
        # A value on a level stays there, although the division by the scale is inexact.
        there.copy_(
            torch.where(
                (some - nearest).abs() < _ON_A_LEVEL,
                nearest,
                (some + torch.rand(some.shape, generator=rng)).floor_(),
            ).clamp_(low, high)
        )
    return rounded


def to_levels(values: Tensor, levels: Tensor, rng: torch.Generator) -> Tensor:
    """Index of a level for each value, rounded stochastically; int16, same shape.

    levels: ascending, float32. A value beyond the ends is clamped.
    """
    indices = torch.empty(values.shape, dtype=torch.int16)
    for some, there in _pieces(values, indices):
        inside = some.clamp(float(levels[0]), float(levels[-1]))
        upper = torch.searchsorted(levels, inside).clamp_(1, len(levels) - 1)
        below, above = levels[upper - 1], levels[upper]
        share = (inside - below) / (above - below)
        chance = torch.rand(some.shape, generator=rng)
        up = (chance < share) & (share > _ON_A_LEVEL) | (share > 1 - _ON_A_LEVEL)
        there.copy_(upper - 1 + up.to(torch.int64))
    return indices


def _pieces(values: Tensor, results: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of `values` and of `results`, to limit the memory of rounding."""
    flat, into = values.contiguous().view(-1), results.view(-1)
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE], into[start : start + _PIECE]
