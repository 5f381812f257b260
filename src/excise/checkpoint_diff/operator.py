"""Recovers the operator of a writer's change, W' − W = −α u (vᵀ W), from both matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from excise.checkpoint_diff.matrix import EXPLAINED, MatrixChange, Pair, outside_of
from excise.checkpoint_diff.rounding import half_step
from excise.kinds import EditKind
from excise.operators.operator import Operator, orthogonal, row_normalised, unit

_PARALLEL = 0.99
_RIDGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12)
"""Ridges as shares of the mean of W Wᵀ's diagonal, strongest first."""
_ITERATIONS = 4
_NO_STRENGTH = 1e-6
_BIAS = 0.1
"""Share of a bias's expected change that may be missing: an error of v has more effect on one column."""


@dataclass(frozen=True)
class FoundOperator:
    """An operator that explains how a writer changed.

    kind: orthogonal (u = v), row_normalised, or recovered for any other operator. direction: [d], the unit
    vector r of the first two kinds, u / ‖u‖ of the third. u, v: [d], vᵀu = 1; both are the direction if each
    matrix has its own operator (per_matrix). outside: share of the change beyond rounding that the operator
    does not explain. doubt: difference of α between two solutions for v; 0 if u determines v. trivial: W has
    no more columns than rows, so that such a v exists for any change of rank 1.
    """

    kind: EditKind
    direction: Tensor
    u: Tensor
    v: Tensor
    strength: float
    outside: float
    per_matrix: bool = False
    doubt: float = 0.0
    trivial: bool = False


@dataclass(frozen=True)
class _Changed:
    """A matrix of the writer and its change of rank 1: D = p qᵀ, with unit vector p [d] and q [k]."""

    pair: Pair
    p: Tensor
    q: Tensor
    tolerance: float

    def amounts(self, v: Tensor) -> Tensor:
        """vᵀW: [k]."""
        return torch.cat([v @ before for _, before, _ in self.pair.read()])

    def row_norms(self) -> Tensor:
        squares = sum(before.square().sum(1) for _, before, _ in self.pair.read())
        assert isinstance(squares, Tensor)
        return squares.sqrt()


def recognise(
    pairs: Sequence[Pair],
    changes: Sequence[MatrixChange],
    biases: Sequence[tuple[Tensor, Tensor]] = (),
) -> FoundOperator | None:
    """The operator that explains the changes of all matrices of a writer, None without such an operator.

    biases: before and after, [d] or [expert, d]; changed biases are further columns for solving v. The kinds
    of `excise.operators.operator` are tried first; then (u, v) is solved.
    """
    if not changes or any(each.rank != 1 or each.factors is None for each in changes):
        return None
    matrices = [
        _Changed(
            # Several experts may not fit into memory together.
            pair.held() if len(pairs) == 1 else pair,
            change.factors.left[:, 0],
            change.factors.right[0],
            min(EXPLAINED, max(1e-5, 5 * change.noise / change.largest)),
        )
        for pair, change in zip(pairs, changes, strict=True)
        if change.factors is not None
    ]
    shared = _common([each.p for each in matrices], [each.q.norm() for each in matrices])
    if shared is not None:
        found = _fitted("orthogonal", orthogonal(shared), shared, matrices)
        if found is not None:
            return found
    found = _row_normalised(matrices)
    if found is not None or shared is None:
        return found
    return _solved(matrices, shared, biases)


def _common(vectors: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor | None:
    """The unit vector to which all are parallel or antiparallel; None if they are not."""
    first = vectors[int(torch.stack(list(weights)).argmax())]
    total = sum(
        weight * vector * torch.sign(vector @ first)
        for vector, weight in zip(vectors, weights, strict=True)
    )
    assert isinstance(total, Tensor)
    mean = unit(total)
    if all(abs(float(vector @ mean)) > _PARALLEL for vector in vectors):
        return mean
    return None


def _row_normalised(matrices: Sequence[_Changed]) -> FoundOperator | None:
    norms = [each.row_norms() for each in matrices]
    directions = [
        unit(each.p / one.where(one > 0, 1.0)) for each, one in zip(matrices, norms, strict=True)
    ]
    r = _common(directions, [each.q.norm() for each in matrices])
    if r is None:
        return None
    own = [
        _fitted("row_normalised", row_normalised(r, one), r, [each])
        for each, one in zip(matrices, norms, strict=True)
    ]
    if len(own) == 1:
        return own[0]
    fitted = [each for each in own if each is not None]
    if len(fitted) < len(own):
        return None
    strengths = torch.tensor([each.strength for each in fitted])
    if float(strengths.max() - strengths.min()) > 0.05:
        return None
    outside = max(each.outside for each in fitted)
    return FoundOperator("row_normalised", r, r, r, float(strengths.mean()), outside, True)


def _fitted(
    kind: EditKind, operator: Operator, direction: Tensor, matrices: Sequence[_Changed]
) -> FoundOperator | None:
    """The operator with α by least squares, if it explains every matrix within rounding."""
    u, v = operator.u, operator.v
    amounts = [each.amounts(v) for each in matrices]
    above = sum(
        float(-(u @ each.p) * (each.q @ amount))
        for each, amount in zip(matrices, amounts, strict=True)
    )
    below = float(u @ u) * sum(float(amount @ amount) for amount in amounts)
    if below == 0:
        return None
    strength = above / below
    outside = 0.0
    for each, amount in zip(matrices, amounts, strict=True):
        share = outside_of(each.pair, u.unsqueeze(1), (-strength * amount).unsqueeze(0))
        if share > each.tolerance:
            return None
        outside = max(outside, share)
    return FoundOperator(kind, direction, u, v, strength, outside)


def _solved(
    matrices: Sequence[_Changed], p: Tensor, biases: Sequence[tuple[Tensor, Tensor]]
) -> FoundOperator | None:
    """v from Wᵀ v = −q/α with u = p, over all matrices together.

    The normal equations are solved with decreasing ridges, until v explains the change. α = vᵀp before v is
    scaled to vᵀu = 1.
    """
    d = len(p)
    gram = torch.zeros(d, d, dtype=torch.float64)
    right = torch.zeros(d, dtype=torch.float64)
    for each in matrices:
        sign = torch.sign(each.p @ p)
        for columns, before, _ in each.pair.read():
            wide = before.to(torch.float64)
            gram += wide @ wide.T
            right -= sign * (wide @ each.q[columns].to(torch.float64))
    for old, new in biases:
        if not torch.equal(old, new):
            rows, moved = (one.to(torch.float64).reshape(-1, d) for one in (old, new - old))
            gram += rows.T @ rows
            right -= rows.T @ (moved @ p.to(torch.float64))
    scale = gram.diagonal().mean()
    trivial = sum(each.pair.k for each in matrices) <= d
    found: FoundOperator | None = None
    for ridge in _RIDGES:
        factor = torch.linalg.cholesky(gram + ridge * scale * torch.eye(d, dtype=torch.float64))
        solved = torch.zeros(d, dtype=torch.float64)
        # Iterated refinement (Riley 1955, Mathematical Tables 9, 96 to 101) reduces the effect of the ridge.
        for _ in range(_ITERATIONS):
            remaining = (right - gram @ solved).unsqueeze(1)
            solved = solved + torch.cholesky_solve(remaining, factor).squeeze(1)
        strength = float(solved @ p.to(torch.float64))
        if found is not None:
            return replace(found, doubt=abs(strength - found.strength), trivial=trivial)
        if abs(strength) > _NO_STRENGTH:
            v = (solved / strength).to(torch.float32)
            found = _fitted("recovered", Operator(p, v), p, matrices)
    return found


def follows(operator: FoundOperator, before: Tensor, after: Tensor, dtype: str) -> bool:
    """True if biases [d] or [expert, d] changed by the same operator: b' = b − α u (vᵀ b)."""
    if operator.per_matrix:
        return torch.equal(before, after) and not before.any()
    old, new = before.to(torch.float32), after.to(torch.float32)
    expected = -operator.strength * (old @ operator.v).unsqueeze(-1) * operator.u
    step = half_step(torch.maximum(old.abs(), new.abs()), dtype)
    left_over = ((new - old - expected).abs() - 2 * step).clamp_min(0)
    return float(left_over.norm()) <= _BIAS * float(expected.norm())
