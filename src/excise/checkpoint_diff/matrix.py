"""A matrix in two checkpoints, and the numerical rank of its change.

After rounding to bfloat16, a change W' − W has full rank, but most singular values are rounding errors. The
numerical rank counts the singular values above the rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.checkpoint.reader import CHUNK
from excise.checkpoint_diff.rounding import half_step, noise_norm

EXACT_UP_TO = 1024
"""Largest number of rows for which all singular values are computed; above, a sketch gives the largest."""
MOST = 64
"""The highest rank that is determined for larger matrices, and that is kept as factors."""
_SPARE = 8
_ROUNDS, _ROUNDS_OF_LARGE = 12, 3
_FINE = 1e-4
EXPLAINED = 1e-2
"""Share of the change (Frobenius norm) that an explanation may leave unexplained, beyond rounding."""


Chunk = tuple[slice, Tensor, Tensor]


@dataclass(frozen=True)
class Pair:
    """Both versions of a matrix [d, k]; d is the residual stream's axis, if it has one.

    dtype: the coarser of both types. read: yields columns [d, c] of both versions, float32, in order.
    """

    d: int
    k: int
    dtype: str
    read: Callable[[], Iterator[Chunk]]

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Columns, their difference D [d, c], and the half step of rounding for each number of D."""
        for columns, before, after in self.read():
            step = half_step(torch.maximum(before.abs(), after.abs()), self.dtype)
            yield columns, after - before, step

    def differences(self) -> Iterator[tuple[slice, Tensor]]:
        """Columns and their difference."""
        for columns, before, after in self.read():
            yield columns, after - before

    def held(self) -> Pair:
        """The pair with its numbers in memory, if it is small."""
        if self.d * self.k > CHUNK:
            return self
        kept = list(self.read())
        return Pair(self.d, self.k, self.dtype, lambda: iter(kept))


@dataclass(frozen=True)
class LowRank:
    """A matrix left @ right of rank r. left: [d, r], orthonormal columns. right: [r, k]."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class MatrixChange:
    """How a matrix changed.

    rank: number of singular values above `noise`. more: the rank may be higher. largest: the largest singular
    value. noise: bound of the rounding errors. outside: share of the change (Frobenius norm) that the factors
    do not explain within rounding. factors: of this rank; None for rank 0, an unknown rank, or factors that
    are not smaller than the matrix.
    """

    rank: int
    more: bool
    largest: float
    noise: float
    outside: float
    factors: LowRank | None


def change_of(pair: Pair) -> MatrixChange:
    """The numerical rank of a pair's difference, with the factors that explain it."""
    pair = pair.held()
    noise = _noise(pair)
    values, left = _singular(pair, noise)
    rank = int((values > noise).sum())
    largest = float(values[0]) if len(values) else 0.0
    more = rank == len(values) < min(pair.d, pair.k)
    if rank == 0 or more:
        return MatrixChange(rank, more, largest, noise, 1.0 if rank else 0.0, None)
    # If the change is small compared with a rounding step, rounding errors are correlated with it and can
    # exceed `noise`: the lowest rank that explains all numbers within rounding is taken.
    candidates = range(1, min(rank, 5)) if noise > _FINE * largest else ()
    for lower in candidates:
        factors, outside = refined(pair, left[:, :lower])
        if outside <= EXPLAINED:
            return MatrixChange(lower, False, largest, noise, outside, factors)
    # Factors are kept only if they are smaller than the matrix.
    if rank <= MOST and rank * (pair.d + pair.k) < pair.d * pair.k:
        factors, outside = refined(pair, left[:, :rank])
        return MatrixChange(rank, False, largest, noise, outside, factors)
    return MatrixChange(rank, False, largest, noise, 1.0, None)


def refined(pair: Pair, left: Tensor) -> tuple[LowRank, float]:
    """The best matrix of rank r for the stored numbers, and the share of the change left unexplained.

    All changes within half a step of D [d, k] round to the same numbers. Alternating projections (von
    Neumann) between these changes and matrices of rank r remove the effect of rounding on the directions.
    left: [d, r], orthonormal columns to start from.
    """
    right = torch.cat([left.T @ change for _, change in pair.differences()], dim=1)
    best, least = LowRank(left, right), float("inf")
    rounds = _ROUNDS if pair.d * pair.k <= CHUNK else _ROUNDS_OF_LARGE
    for number in range(rounds + 1):
        basis = torch.linalg.qr(right.T).Q
        images = torch.zeros_like(left)
        outside, whole = 0.0, 0.0
        for columns, change, step in pair.chunks():
            fit = left @ right[:, columns]
            outside += _excess(change - fit, step)
            whole += float(change.square().sum())
            images += fit.clamp(change - step, change + step) @ basis[columns]
        share = math.sqrt(outside / whole)
        gained = least - share
        if gained > 0:
            best, least = LowRank(left, right), share
        if number == rounds or share <= EXPLAINED / 100 or gained < share / 50:
            break
        turned = torch.linalg.qr(images).Q
        right = torch.cat([turned.T @ nearest for nearest in _nearest(pair, left, right)], dim=1)
        left = turned
    return best, least


def _nearest(pair: Pair, left: Tensor, right: Tensor) -> Iterator[Tensor]:
    """The changes nearest to left @ right that round to the stored numbers."""
    for columns, change, step in pair.chunks():
        yield (left @ right[:, columns]).clamp(change - step, change + step)


def outside_of(pair: Pair, left: Tensor, right: Tensor) -> float:
    """Frobenius norm of the change that left @ right does not explain within rounding, as a share."""
    outside = whole = 0.0
    for columns, change, step in pair.chunks():
        outside += _excess(change - left @ right[:, columns], step)
        whole += float(change.square().sum())
    return math.sqrt(outside / whole) if whole else 0.0


def _excess(error: Tensor, step: Tensor) -> float:
    """Sum of squared errors beyond rounding. Overwrites `error`."""
    # A whole step, because the change may have been rounded before it was added.
    return float(error.abs_().sub_(step, alpha=2).clamp_min_(0).square_().sum())


def _noise(pair: Pair) -> float:
    rows = torch.zeros(pair.d, dtype=torch.float64)
    columns = torch.zeros(pair.k, dtype=torch.float64)
    for where, _, step in pair.chunks():
        squares = step.square_()
        rows += squares.sum(1)
        columns[where] = squares.sum(0).to(torch.float64)
    return noise_norm(rows, columns)


def _singular(pair: Pair, noise: float) -> tuple[Tensor, Tensor]:
    """The largest singular values of D, descending, and its left singular vectors [d, number]."""
    if pair.d <= EXACT_UP_TO:
        gram = torch.zeros(pair.d, pair.d, dtype=torch.float64)
        for _, change in pair.differences():
            wide = change.to(torch.float64)
            gram += wide @ wide.T
        squares, vectors = torch.linalg.eigh(gram)
        return squares.flip(0).clamp_min(0).sqrt(), vectors.flip(1).to(torch.float32)
    count = 16
    while True:
        count = min(count, MOST + _SPARE, pair.d, pair.k)
        values, left = _sketched(pair, count)
        found = int((values > noise).sum())
        if found <= count - _SPARE or count == min(MOST + _SPARE, pair.d, pair.k):
            return values, left
        count *= 3


def _sketched(pair: Pair, count: int) -> tuple[Tensor, Tensor]:
    """Randomised singular values, two power iterations (Halko et al. 2011, SIAM Review 53, alg. 4.4)."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(pair.k, count, generator=generator)
    for _ in range(3):
        images = torch.zeros(pair.d, count)
        for columns, change in pair.differences():
            images += change @ probe[columns]
        left = torch.linalg.qr(images).Q
        probe = torch.cat([change.T @ left for _, change in pair.differences()])
        probe, weights = torch.linalg.qr(probe)
    inner, values, _ = torch.linalg.svd(weights.T)
    return values, left @ inner
