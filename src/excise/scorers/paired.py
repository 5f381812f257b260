"""Paired tests of whether two edits differ by more than chance: both answered the same prompts.

Not from SciPy, see `interval`: its permutation test draws other samples, which would change p-values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SHUFFLES = 10_000
SIGNIFICANT = 0.05
"""A difference with a smaller p-value is called significant."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided p-value of the verdicts of two edits.

    Only prompts on which the verdicts differ count; by chance, each of them favours either edit with
    probability one half. Exact form of McNemar 1947, Psychometrika 12, 153 to 157. Raises ValueError if
    lengths differ.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differing, fewer = only_first + only_second, min(only_first, only_second)
    tail: int = sum(math.comb(differing, count) for count in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differing))


def sign_flips(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of the difference of the means of paired values.

    By chance, each pair's difference has either sign with the same probability (Fisher 1935, The Design of
    Experiments, section 21). Signs are drawn, not enumerated, so that the p-value is at least 1/(draws + 1).
    Raises ValueError if lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values beside {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = abs(differences.sum())
    signs = np.random.default_rng(seed).integers(0, 2, (SHUFFLES, len(differences))) * 2 - 1
    drawn = np.abs((signs * differences).sum(1))
    # A draw that equals the found difference counts, whatever rounding does.
    return float((np.count_nonzero(drawn >= found * (1 - 1e-12)) + 1) / (SHUFFLES + 1))
