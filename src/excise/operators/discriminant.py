"""The discriminant kind: from statistics of writers' own outputs to (u, v).

The kinds that use directions of the residual stream need no statistics of writers, and stand in
`excise.operators.operator`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from excise.devices.transfers import on_host
from excise.operators.moments import Moments
from excise.operators.operator import Operator, unit


def discriminants(differences: Mapping[float, Tensor], moments: Moments) -> dict[float, Operator]:
    """v = (S + ρ·mean(diag S)·I)⁻¹ δ, with u = δ an oblique projector, for several ridges ρ together.

    Ridge-regularised linear discriminant analysis turned into an operator: of all rank-1 operators that
    take δ away, this one moves outputs with second moment S least (compare LEACE, Belrose et al. 2023,
    arXiv 2306.03819). u is scaled to length 1, which changes nothing in the operator.

    differences: by ridge, [writer, d] each, δ = mean over target − mean over control of the writer's own
    output. moments: S of each writer. Returns float32 [writer, d] by ridge, with vᵀu = 1. A writer whose δ
    is zero gets u = v = 0, the identity.
    """
    units = {ridge: unit(delta.to(torch.float64)) for ridge, delta in differences.items()}
    found: dict[float, list[Tensor]] = {ridge: [] for ridge in differences}
    for index in range(moments.writers):
        # The outer loop is over writers, because the system that all ridges of a writer share is large.
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
