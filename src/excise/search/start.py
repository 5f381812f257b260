"""The first trials of a search: closed forms, and points spread around them.

The closed forms were measured (docs/benchmarks/tradeoff.md): the discriminant is best on attention in all
layers, kinds of residual directions in the later layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from optuna.trial import FixedTrial

from excise.anatomy.roles import ATTENTION
from excise.anatomy.writers import Anatomy
from excise.kinds import Kind, of_residuals
from excise.search.space import (
    DIRECTION_INDEX,
    RIDGE_INDEX,
    RIDGES,
    SCOPE,
    Candidate,
    family,
    propose,
)

Parameters = dict[str, object]

_STRENGTHS = (1.0, 0.7, 0.5)
_RIDGE = RIDGES.index(1e-2)
_FIRST_EDITED = 1 / 3
"""Share of the layers, from the first, that the closed form of residual kinds does not edit."""
_DEVIATION = 0.2
"""Standard deviation of a spread parameter, relative to its range."""


def closed_forms(kinds: Sequence[Kind], anatomy: Anatomy) -> list[Parameters]:
    """Parameters of the first trials: the closed forms, for each strength those of all kinds."""
    strong, *weaker = [
        [_flat(kind, strength, anatomy) for kind in kinds] for strength in _STRENGTHS
    ]
    return [*strong, *(point for points in weaker for point in points)]


def closed_form_of(kind: Kind, anatomy: Anatomy) -> Candidate:
    """The strongest closed form of a kind."""
    form = FixedTrial(_flat(kind, _STRENGTHS[0], anatomy))
    return propose(form, (kind,), anatomy)


def start_points(
    kinds: Sequence[Kind], anatomy: Anatomy, count: int, seed: int
) -> list[Parameters]:
    """`count` points: the closed forms, then points spread around them, which the seed determines."""
    points = closed_forms(kinds, anatomy)[:count]
    spread = _spread(points, anatomy, seed)
    return [*points, *(next(spread) for _ in range(count - len(points)))]


def _flat(kind: Kind, strength: float, anatomy: Anatomy) -> Parameters:
    """The same strength in all layers (discriminant) or in the last two thirds (residual kinds)."""
    last = len(anatomy.layers) - 1
    residual = of_residuals(kind)
    point: Parameters = {"kind": kind}
    if residual:
        point |= {SCOPE: "per layer", DIRECTION_INDEX: 0.6 * last}
    else:
        point |= {RIDGE_INDEX: _RIDGE}
    alone = ATTENTION in anatomy.matrices()
    for component in anatomy.matrices():
        on = component == ATTENTION or not alone
        reach = (1 - _FIRST_EDITED) * last if residual else float(last)
        point |= {
            f"{family(kind)}.{component}.max_weight": strength if on else 0.0,
            f"{family(kind)}.{component}.max_weight_position": last if residual else last / 2,
            f"{family(kind)}.{component}.min_weight_fraction": 1.0,
            f"{family(kind)}.{component}.min_weight_distance": max(1.0, reach),
        }
    return point


def _spread(points: Sequence[Parameters], anatomy: Anatomy, seed: int) -> Iterator[Parameters]:
    last = float(len(anatomy.layers) - 1)
    number = 0
    while True:
        generator = np.random.default_rng([seed, number])
        yield {
            name: _moved(name, value, last, generator)
            for name, value in points[number % len(points)].items()
        }
        number += 1


def _moved(name: str, value: object, last: float, generator: np.random.Generator) -> object:
    """A parameter, moved at random inside the limits of the space."""
    if isinstance(value, str):
        return value
    assert isinstance(value, int | float)
    if name == RIDGE_INDEX:
        return int(np.clip(value + generator.integers(-1, 2), 0, len(RIDGES) - 1))
    if name.endswith("max_weight"):
        # A component that the closed form does not edit is edited in every other point.
        centre = value if value > 0 else generator.choice([0.0, 0.3])
        return float(np.clip(generator.normal(centre, _DEVIATION), 0.0 if value == 0 else 0.3, 1.2))
    if name.endswith("min_weight_fraction"):
        return float(1 - abs(generator.normal(0, 2 * _DEVIATION)) % 1)
    if name.endswith("min_weight_distance"):
        return float(
            np.clip(value - abs(generator.normal(0, _DEVIATION)) * last, 1.0, max(1.0, last))
        )
    low = 0.6 * last if name.startswith("residual") and name.endswith("position") else 0.0
    low, high = (0.4 * last, 0.9 * last) if name == DIRECTION_INDEX else (low, last)
    return float(np.clip(generator.normal(value, _DEVIATION * last), low, high))
