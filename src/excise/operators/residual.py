"""From residual vectors to directions: pure functions in float64.

Shapes: residuals are [prompt, layer, d] at the last prompt token, directions [layer, d].
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.operators.operator import unit


def winsorise(residuals: Tensor, quantile: float) -> Tensor:
    """Clip the components of each vector at ± the `quantile` of the vector's absolute values.

    This limits the few massive activations that would dominate means (Sun et al. 2024, arXiv 2402.17762).
    A quantile of 1 changes nothing.
    """
    if quantile >= 1:
        return residuals
    limits = residuals.abs().to(torch.float64).quantile(quantile, dim=-1, keepdim=True)
    return residuals.to(torch.float64).clamp(-limits, limits)


def mean(residuals: Tensor) -> Tensor:
    """Mean over prompts, float64: [prompt, layer, d] → [layer, d]."""
    return residuals.to(torch.float64).mean(0)


def geometric_median(residuals: Tensor) -> Tensor:
    """Geometric median of the prompts' vectors, for each layer (Weiszfeld 1937).

    [prompt, layer, d] → [layer, d], float64. Stops after 100 steps, or when no layer moves
    by more than a billionth of its size.
    """
    points = residuals.to(torch.float64)
    centre = points.mean(0)
    for _ in range(100):
        distance = (points - centre).norm(dim=-1, keepdim=True)
        # A point at the centre would have infinite weight.
        weight = 1 / distance.clamp_min(1e-12)
        moved = (points * weight).sum(0) / weight.sum(0)
        step = (moved - centre).norm(dim=-1) / moved.norm(dim=-1).clamp_min(1e-12)
        centre = moved
        if step.max() < 1e-9:
            break
    return centre


def difference(target_centre: Tensor, control_centre: Tensor, *, orthogonalise: bool) -> Tensor:
    """Unit directions from control to target (Arditi et al. 2024, arXiv 2406.11717, eq. 1 to 3).

    orthogonalise: remove the component along the control centre, so that an edit with the direction does not
    change the control centre.
    """
    direction = unit(target_centre - control_centre)
    if orthogonalise:
        axis = unit(control_centre)
        direction = unit(direction - (direction * axis).sum(-1, keepdim=True) * axis)
    return direction


def at_fractional_layer(directions: Tensor, index: float) -> Tensor:
    """One direction [d], linearly interpolated between the directions of two layers, of length 1.

    Raises ValueError if `index` is outside [0, layers − 1].
    """
    last = len(directions) - 1
    if not 0 <= index <= last:
        raise ValueError(f"layer index {index} is outside 0 … {last}")
    lower = min(int(index), max(last - 1, 0))
    return unit(torch.lerp(directions[lower], directions[min(lower + 1, last)], index - lower))
