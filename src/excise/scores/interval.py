"""Confidence intervals of counted figures."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution: intervals are 95 % ones."""


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % score interval of a share, from 0 to 1 (Wilson 1927, JASA 22, 209 to 212).

    Raises ValueError unless 0 ≤ count ≤ of and of > 0.
    """
    if not 0 <= count <= of or of == 0:
        raise ValueError(f"{count} of {of} is no share")
    share, z2 = count / of, _Z * _Z
    centre = share + z2 / (2 * of)
    half = _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    scale = 1 + z2 / of
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def counted(count: int, of: int) -> str:
    """A count with its interval in per cent, as in "3/100 (1 to 8 %)"."""
    low, high = wilson(count, of)
    return f"{count}/{of} ({100 * low:.0f} to {100 * high:.0f} %)"
