"""Checks that target and control prompts differ, and that their tokens suffice for a ridge."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from excise.engine.capture import EndStatistics
from excise.errors import PromptError
from excise.operators.moments import Moments

_CLEAR = 1.5
"""Lowest squared distance of two different means, in multiples of the distance by chance."""
_LOOKED_AT = 3
"""Number of writers whose effective dimension is computed, with an inverse each."""


def separation(target: EndStatistics, control: EndStatistics) -> float:
    """Squared distance of both means relative to the distance by chance; the maximum over writers or layers.

    Two samples of one distribution have means whose squared distance is tr Σ/n₁ + tr Σ/n₂ in expectation
    (compare Hotelling 1931, Annals of Mathematical Statistics 2; traces in place of the inverse, because
    there are fewer prompts than dimensions).
    """
    apart = (target.means - control.means).square().sum(-1)
    chance: Tensor = target.spreads / target.prompts + control.spreads / control.prompts
    return float((apart / chance.clamp_min(1e-30)).max()) if bool((apart > 0).any()) else 0.0


def require_separable(ratio: float) -> None:
    """Raise PromptError if target and control prompts may be samples of one distribution."""
    if ratio < _CLEAR:
        raise PromptError(
            "target and control prompts cannot be told apart by the model's activations: the squared "
            f"distance of their means is {ratio:.2f} times what chance alone gives, and at least {_CLEAR:g} "
            "is needed; give sets that differ in the behaviour, or more prompts"
        )


def require_enough_tokens(moments: Moments, ridges: Sequence[float], prompts: int) -> None:
    """Raise PromptError if there are fewer tokens than effective dimensions at the smallest ridge.

    prompts: number of control prompts of the moments. The message gives a sufficient number.
    """
    writers = moments.writers
    picked = sorted({0, writers // 2, writers - 1})[:_LOOKED_AT]
    needed = max(moments.system(index).effective_dimension(min(ridges)) for index in picked)
    tokens = min(moments.token_counts[index] for index in picked)
    if tokens < needed:
        enough = math.ceil(needed / tokens * prompts)
        raise PromptError(
            f"control: {prompts} train prompts have {tokens} different tokens, too few for the ridge "
            f"{min(ridges):g}, which needs {needed:.0f}; give at least {enough} prompts"
        )
