"""From statistics of writers' own outputs to (u, v): one function a kind.

The kinds that use directions of the residual stream need no statistics of writers, and stand in
`excise.operators.operator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from excise.devices.transfers import on_host
from excise.kinds import FACTS, Kind, Statistics
from excise.operators.moments import Moments, System
from excise.operators.operator import Operator, unit

Chosen = tuple[Kind, float | None]
"""A kind with one of its ridges; None for a kind that has none."""


def discriminant(u: Tensor, system: System, ridge: float, centred: bool) -> Tensor:
    """v = (S + ρ·mean(diag S)·I)⁻¹ δ, with u = δ an oblique projector.

    Ridge-regularised linear discriminant analysis turned into an operator: of all rank-1 operators that
    take δ away, this one moves outputs with second moment S least (compare LEACE, Belrose et al. 2023,
    arXiv 2306.03819). u is scaled to length 1, which changes nothing in the operator.
    """
    return system.solve(u, ridge, centred=centred)


def leace(u: Tensor, system: System, ridge: float, centred: bool) -> Tensor:
    """W⁺ P W with W = Σ^(−1/2) and P the projector on W δ (Belrose et al. 2023, arXiv 2306.03819, eq. 4).

    Its rank is 1, because two classes differ along one line: u = δ, v ∝ W² δ. Σ is inverted on the
    directions that it has; LEACE knows no ridge, so that `ridge` is not used. It stands here as a
    reference: it needs S whole, and eigenvectors of it.
    """
    values, vectors = torch.linalg.eigh(system.matrix(centred=centred))
    there = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float32).eps
    whitening = vectors[:, there] * values[there].rsqrt()
    found: Tensor = whitening @ (whitening.T @ u.to(whitening.device))
    return found


LOCAL_OPERATORS: Mapping[Kind, Callable[[Tensor, System, float, bool], Tensor]] = {
    "discriminant_weighted": discriminant,
    "discriminant": discriminant,
    "discriminant_centred": discriminant,
    "discriminant_answers": discriminant,
    "leace": leace,
}
"""The kinds made from writers' own outputs: from u = δ/‖δ‖ [d] and one writer's system to v [d], unscaled."""


def local_operators(
    differences: Mapping[Chosen, Tensor], moments: Mapping[Statistics, Moments]
) -> dict[Chosen, Operator]:
    """The operators of kinds that are made from writers' own outputs, for all their ridges together.

    differences: [writer, d] each, δ = mean over target − mean over control of the writer's own output.
    Returns float32 [writer, d], with vᵀu = 1. A writer whose δ is zero gets u = v = 0, the identity.
    """
    units = {chosen: unit(delta.to(torch.float64)) for chosen, delta in differences.items()}
    found: dict[Chosen, list[Tensor]] = {chosen: [] for chosen in differences}
    for statistics, sums in moments.items():
        asked = [chosen for chosen in differences if FACTS[chosen[0]].statistics == statistics]
        for index in range(sums.writers) if asked else ():
            # One writer after the other: what all ridges share is large.
            system = sums.system(index)
            for kind, ridge in asked:
                solve, u = LOCAL_OPERATORS[kind], units[kind, ridge][index]
                found[kind, ridge].append(solve(u, system, ridge or 0.0, FACTS[kind].centred))
    solved = iter(on_host([v for each in found.values() for v in each]))
    return {
        chosen: _scaled(u, torch.stack([next(solved) for _ in u])) for chosen, u in units.items()
    }


def local_operator(kind: Kind, differences: Tensor, moments: Moments, ridge: float) -> Operator:
    """The operator of one kind with one ridge; shapes as in `local_operators`."""
    statistics = FACTS[kind].statistics
    return local_operators({(kind, ridge): differences}, {statistics: moments})[kind, ridge]


def _scaled(u: Tensor, v: Tensor) -> Operator:
    """Both as float32, v scaled so that vᵀu = 1."""
    overlap = (v * u).sum(-1, keepdim=True)
    v = torch.where(overlap > 0, v / overlap.clamp_min(torch.finfo(v.dtype).tiny), 0.0 * v)
    return Operator(u=torch.where(overlap > 0, u, 0.0 * u).to(torch.float32), v=v.to(torch.float32))
