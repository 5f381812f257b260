"""From statistics of writers' own outputs to (u, v): one function a kind.

The kinds that use directions of the residual stream need no statistics of writers, and stand in
`excise.edit.operator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from excise.directions.moments import Moments
from excise.edit.operator import Operator, unit
from excise.kinds import FACTS, Kind

LocalOperator = Callable[[Tensor, Moments, float, bool], Operator]


def discriminant(differences: Tensor, moments: Moments, ridge: float, centred: bool) -> Operator:
    """u = δ, v = (S + ρ·mean(diag S)·I)⁻¹ δ, scaled to vᵀu = 1: an oblique projector.

    Ridge-regularised linear discriminant analysis turned into an operator: of all rank-1 operators that
    take δ away, this one moves outputs with second moment S least (compare LEACE, Belrose et al. 2023,
    arXiv 2306.03819). u is scaled to length 1, which changes nothing in the operator.

    differences: [writer, d], δ = mean over target − mean over control of the writer's own output.
    Returns float32 [writer, d]. A writer whose δ is zero gets u = v = 0, the identity.
    """
    u = unit(differences.to(torch.float64))
    v = torch.stack(
        [moments.solve(index, row, ridge, centred=centred) for index, row in enumerate(u)]
    )
    return _scaled(u, v)


def leace(differences: Tensor, moments: Moments, ridge: float, centred: bool) -> Operator:
    """W⁺ P W with W = Σ^(−1/2) and P the projector on W δ (Belrose et al. 2023, arXiv 2306.03819, eq. 4).

    Its rank is 1, because two classes differ along one line: u = δ, v ∝ W² δ. Σ is inverted on the
    directions that it has; LEACE knows no ridge, so that `ridge` is not used. It stands here as a
    reference: it needs S whole, and eigenvectors of it.
    """
    u = unit(differences.to(torch.float64))
    v = torch.empty_like(u)
    for index, row in enumerate(u):
        values, vectors = torch.linalg.eigh(moments.matrix(index, centred=centred))
        there = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float32).eps
        whitening = vectors[:, there] * values[there].rsqrt()
        v[index] = whitening @ (whitening.T @ row)
    return _scaled(u, v)


LOCAL_OPERATORS: Mapping[Kind, LocalOperator] = {
    "discriminant_weighted": discriminant,
    "discriminant": discriminant,
    "discriminant_centred": discriminant,
    "discriminant_answers": discriminant,
    "leace": leace,
}


def local_operator(kind: Kind, differences: Tensor, moments: Moments, ridge: float) -> Operator:
    """The operator of a kind that is made from writers' own outputs; shapes as in `discriminant`."""
    return LOCAL_OPERATORS[kind](differences, moments, ridge, FACTS[kind].centred)


def _scaled(u: Tensor, v: Tensor) -> Operator:
    """Both as float32, v scaled so that vᵀu = 1."""
    overlap = (v * u).sum(-1, keepdim=True)
    v = torch.where(overlap > 0, v / overlap.clamp_min(torch.finfo(v.dtype).tiny), 0.0 * v)
    return Operator(u=torch.where(overlap > 0, u, 0.0 * u).to(torch.float32), v=v.to(torch.float32))
