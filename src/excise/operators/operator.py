"""The rank-1 operator y' = y − α u (vᵀ y), and (u, v) made from directions of the residual stream.

All functions are pure. Their tensors have one row for each writer, so that a few array operations build the
operators of all writers of a model. No d × d matrix is ever built from (u, v): u (vᵀ W) costs O(d·k), and
(r rᵀ) W is r (rᵀ W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.devices.transfers import on_host
from excise.operators.moments import Moments


@dataclass(frozen=True)
class Operator:
    """The pair (u, v) of every writer, vᵀu = 1 in each row. u, v: [writer, d], float32."""

    u: Tensor
    v: Tensor


def unit(vectors: Tensor) -> Tensor:
    """Rows of `vectors` [..., d] scaled to length 1; a row of zeros stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    scaled: Tensor = vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)
    return scaled


def through_post_norm(directions: Tensor, gains: Tensor) -> Tensor:
    """Directions for a writer whose output passes an RMSNorm with gain γ.

    The norm multiplies by γ and a positive scalar, and r·(γ ⊙ y) = (γ ⊙ r)·y: so the component along γ ⊙ r
    is removed before the norm. A writer without a post-norm has a gain of ones.

    directions, gains: [writer, d]. Returns unit vectors [writer, d].
    """
    return unit(directions * gains)


def orthogonal(directions: Tensor) -> Operator:
    """u = v = r, the orthogonal projector away from r (Arditi et al. 2024, arXiv 2406.11717, eq. 4).

    directions: [writer, d], unit vectors (a row of zeros gives the identity).
    """
    return Operator(u=directions, v=directions)


def row_normalised(directions: Tensor, row_norms: Tensor) -> Operator:
    """The projector of the row-normalised matrix: with D = diag(row norms of W), u ∝ D r, v ∝ D⁻¹ r.

    W = D Ŵ with unit rows Ŵ; ablating Ŵ and multiplying by D again gives W − D r rᵀ D⁻¹ W, which is
    rank 1 and exact. vᵀu = rᵀ r = 1 needs no further scaling.

    directions: [writer, d], unit vectors; row_norms: [writer, d], positive.
    """
    # A row of zeros writes nothing, so any positive norm is right.
    row_norms = torch.where(row_norms > 0, row_norms, torch.ones_like(row_norms))
    return Operator(u=row_norms * directions, v=directions / row_norms)


def discriminants(differences: Mapping[float, Tensor], moments: Moments) -> dict[float, Operator]:
    """v = (S + ρ·mean(diag S)·I)⁻¹ δ, with u = δ an oblique projector, for several ridges ρ together.

    Ridge-regularised linear discriminant analysis as an operator: of all rank-1 operators that remove δ, this
    operator moves outputs with second moment S least (compare LEACE, Belrose et al. 2023,
    arXiv 2306.03819). u is scaled to length 1, and v inversely, which does not change the operator.

    differences: by ridge, [writer, d] each, δ = mean over target − mean over control of the writer's own
    output. moments: S of each writer. Returns float32 [writer, d] by ridge, with vᵀu = 1. A writer whose δ
    is zero gets u = v = 0, the identity.
    """
    units = {ridge: unit(delta.to(torch.float64)) for ridge, delta in differences.items()}
    found: dict[float, list[Tensor]] = {ridge: [] for ridge in differences}
    for index in range(moments.writers):
        # The outer loop is over writers, because all ridges of a writer share one large linear system.
        system = moments.system(index)
        for ridge, u in units.items():
            found[ridge].append(system.solve(u[index], ridge))
    solved = iter(on_host([v for each in found.values() for v in each]))
    return {ridge: oblique(u, torch.stack([next(solved) for _ in u])) for ridge, u in units.items()}


def discriminant(difference: Tensor, moments: Moments, ridge: float) -> Operator:
    """The operator of one ridge; shapes as in `discriminants`."""
    return discriminants({ridge: difference}, moments)[ridge]


def oblique(u: Tensor, v: Tensor) -> Operator:
    """The operator of u and v [writer, d] as float32, v scaled so that vᵀu = 1."""
    overlap = (v * u).sum(-1, keepdim=True)
    v = torch.where(overlap > 0, v / overlap.clamp_min(torch.finfo(v.dtype).tiny), 0.0 * v)
    return Operator(u=torch.where(overlap > 0, u, 0.0 * u).to(torch.float32), v=v.to(torch.float32))
