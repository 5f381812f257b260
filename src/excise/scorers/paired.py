"""Do two edits differ by more than chance? Paired tests, because both answered the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SHUFFLES = 10_000
SIGNIFICANT = 0.05
"""Probability by chance alone below which a difference is called one."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Probability, two-sided, that chance alone makes the verdicts differ as unevenly as they do.

    Only prompts on which the two differ count; under chance each of those falls to either side like a coin.
    Exact form of McNemar 1947, Psychometrika 12, 153 to 157. Raises ValueError if lengths differ.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differing, fewer = only_first + only_second, min(only_first, only_second)
    tail: int = sum(math.comb(differing, count) for count in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differing))


def sign_flips(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """Probability, two-sided, that chance alone makes the means of paired values differ as they do.

    Under chance each pair's difference might as well have the other sign (Fisher 1935, The Design of
    Experiments, section 21). Drawn, not enumerated; never below 1/(draws + 1). Raises ValueError if
    lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values beside {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = abs(differences.sum())
    signs = np.random.default_rng(seed).integers(0, 2, (SHUFFLES, len(differences))) * 2 - 1
    drawn = np.abs((signs * differences).sum(1))
    # Rounding must not make a draw that equals what was found count as less.
    return float((np.count_nonzero(drawn >= found * (1 - 1e-12)) + 1) / (SHUFFLES + 1))
