"""The rank-1 operator y' = y − α u (vᵀ y), and (u, v) made from directions of the residual stream.

Everything here is a pure function on stacks: one row a writer, so that the operators of all writers of
a model are built by a handful of array operations. Nothing of size d × d is ever made from (u, v):
u (vᵀ W) costs O(d·k), and (r rᵀ) W is r (rᵀ W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Operator:
    """The pair (u, v) of every writer, vᵀu = 1 in each row.

    u, v: [writer, d], float32.
    """

    u: Tensor
    v: Tensor


def unit(vectors: Tensor) -> Tensor:
    """Rows of `vectors` [..., d] scaled to length 1; a row of zeros stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    scaled: Tensor = vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny)
    return scaled


def through_post_norm(directions: Tensor, gains: Tensor) -> Tensor:
    """Directions for a writer whose output passes an RMSNorm with gain γ.

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
    # A row of zeros writes nothing, so any positive norm is right.
    row_norms = torch.where(row_norms > 0, row_norms, torch.ones_like(row_norms))
    return Operator(u=row_norms * directions, v=directions / row_norms)
