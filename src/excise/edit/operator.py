"""The rank-1 operator y' = y − α u (vᵀ y), and the kinds of (u, v).

Everything here is a pure function on stacks: one row a writer, so that the operators of all writers of
a model are built by a handful of array operations. Nothing of size d × d is ever made from (u, v):
u (vᵀ W) costs O(d·k), and (r rᵀ) W is r (rᵀ W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["discriminant", "orthogonal", "row_normalised"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Operator:
    """The pair (u, v) of every writer, vᵀu = 1 in each row.

    u, v: [writer, d], float32.
    """

    u: Tensor
    v: Tensor


def apply(output: Tensor, u: Tensor, v: Tensor, strength: float | Tensor) -> Tensor:
    """y − α u (vᵀ y) for `output` y [..., d], u and v [d]; the reference that fast paths are held to."""
    return output - strength * (output @ v).unsqueeze(-1) * u


def unit(vectors: Tensor) -> Tensor:
    """Rows of `vectors` [..., d] scaled to length 1; a row of zeros stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    scaled: Tensor = vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)
    return scaled


def through_post_norm(directions: Tensor, gains: Tensor) -> Tensor:
    """Directions as the writer has to see them where its output passes an RMSNorm with gain γ.

    The norm multiplies by γ and a positive scalar, so r·(γ ⊙ y) = (γ ⊙ r)·y: what has to vanish before
    the norm is the component along γ ⊙ r. A writer without a post-norm has a gain of ones.

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
    # A row of zeros writes nothing whatever is done to it: any positive norm will do.
    row_norms = torch.where(row_norms > 0, row_norms, torch.ones_like(row_norms))
    return Operator(u=row_norms * directions, v=directions / row_norms)


def discriminant(differences: Tensor, second_moments: Tensor, ridge: float) -> Operator:
    """u = δ, v = (S + ρ·mean(diag S)·I)⁻¹ δ, scaled to vᵀu = 1: an oblique projector.

    Ridge-regularised linear discriminant analysis turned into an operator: of all rank-1 operators that
    take δ away, this one moves outputs with second moment S least (compare LEACE, Belrose et al. 2023,
    arXiv 2306.03819). u is scaled to length 1, which changes nothing in the operator.

    differences: [writer, d], δ = mean over target − mean over control of the writer's own output.
    second_moments: [writer, d, d], float64, S over tokens of control prompts.
    Returns float32 [writer, d]. A writer whose δ is zero gets u = v = 0, the identity.
    """
    dimension = differences.shape[-1]
    u = unit(differences.to(torch.float64))
    diagonals = second_moments.diagonal(dim1=-2, dim2=-1)
    # A writer that is silent on control prompts has S = 0: any ridge then gives the orthogonal projector.
    scale = diagonals.mean(-1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    identity = torch.eye(dimension, dtype=torch.float64, device=u.device)
    v = torch.empty_like(u)
    for index, (moment, weight) in enumerate(zip(second_moments, scale, strict=True)):
        factor = torch.linalg.cholesky(moment.to(u) + ridge * weight * identity)
        v[index] = torch.cholesky_solve(u[index].unsqueeze(-1), factor).squeeze(-1)
    overlap = (v * u).sum(-1, keepdim=True)
    v = torch.where(overlap > 0, v / overlap.clamp_min(torch.finfo(v.dtype).tiny), v)
    return Operator(u=u.to(torch.float32), v=v.to(torch.float32))
