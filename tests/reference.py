"""Slow references for the fast paths."""

from __future__ import annotations

from torch import Tensor


def apply_operator(output: Tensor, u: Tensor, v: Tensor, strength: float | Tensor) -> Tensor:
    """y − α u (vᵀ y) for `output` y [..., d], u and v [d]."""
    return output - strength * (output @ v).unsqueeze(-1) * u
