"""The search space: how strongly each writer is edited, and along which direction.

The parameters are the field's, so that results compare: a kernel over layers for each component and, for
kinds that use residual directions, the scope of the direction. The discriminant kind adds the ridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from optuna.trial import FrozenTrial, Trial
from torch import Tensor

from excise.edit.operator import Kind
from excise.model.roles import ATTENTION
from excise.model.writers import Anatomy

RIDGES = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
"""The ridges ρ that are solved for before the search starts, so that a trial only looks one up."""


@dataclass(frozen=True)
class Kernel:
    """Strength over layers: a tent around `max_weight_position`, zero beyond `min_weight_distance`.

    max_weight: strength at the position. min_weight: strength at the distance. Both at least 0.
    """

    max_weight: float
    max_weight_position: float
    min_weight: float
    min_weight_distance: float

    def strength(self, layer: int) -> float:
        """Linear from max_weight at the position to min_weight at the distance, zero beyond it."""
        distance = abs(layer - self.max_weight_position)
        if distance > self.min_weight_distance:
            return 0.0
        return self.max_weight + (self.min_weight - self.max_weight) * (
            distance / self.min_weight_distance
        )


@dataclass(frozen=True)
class Candidate:
    """One point of the search space.

    direction_index: fractional layer whose direction all layers share; None lets each have its own.
    ridge: ρ of the discriminant kind, None for other kinds. kernels: one for each component.
    """

    kernels: Mapping[str, Kernel]
    direction_index: float | None = None
    ridge: float | None = None

    def strengths(self, anatomy: Anatomy) -> Tensor:
        """The strength α of each writer: [writer], float32."""
        return torch.tensor(
            [self.kernels[writer.component].strength(writer.layer) for writer in anatomy.writers]
        )


def propose(trial: Trial | FrozenTrial, kind: Kind, anatomy: Anatomy) -> Candidate:
    """The candidate of a trial: asked of the study if it is new, as it was if it has finished."""
    last = len(anatomy.layers) - 1
    index: float | None = None
    ridge: float | None = None
    if kind == "discriminant":
        step = trial.suggest_int("ridge_index", 0, len(RIDGES) - 1)
        ridge = RIDGES[step]
    else:
        scope = trial.suggest_categorical("direction_scope", ["global", "per layer"])
        # Always asked for, so that the space has the same shape in every trial, as multivariate TPE needs.
        position = trial.suggest_float("direction_index", 0.4 * last, 0.9 * last)
        index = position if scope == "global" else None
    components = list(anatomy.matrices())
    kernels = {component: _kernel(trial, kind, component, last) for component in components}
    return Candidate(kernels=kernels, direction_index=index, ridge=ridge)


def _kernel(trial: Trial | FrozenTrial, kind: Kind, component: str, last: int) -> Kernel:
    attention = component == ATTENTION
    if kind == "discriminant":
        # Local directions do best with all layers edited, early ones too, and more gently.
        weights = (0.3, 1.5) if attention else (-0.5, 1.2)
        positions, widest = (0.0, float(last)), float(last)
    else:
        weights = (0.8, 1.5) if attention else (-0.25, 1.5)
        positions, widest = (0.6 * last, float(last)), 0.6 * last
    # Below zero means off: the search can then reach "this component not at all" with some probability.
    max_weight = max(0.0, trial.suggest_float(f"{component}.max_weight", *weights))
    position = trial.suggest_float(f"{component}.max_weight_position", *positions)
    fraction = trial.suggest_float(f"{component}.min_weight_fraction", 0.0, 1.0)
    distance = trial.suggest_float(f"{component}.min_weight_distance", 1.0, max(1.0, widest))
    return Kernel(max_weight, position, fraction * max_weight, distance)


def anchors(kind: Kind, anatomy: Anatomy) -> list[dict[str, object]]:
    """Parameters of the first trials: closed forms that need no search, for it to start from.

    Discriminant on attention alone, ρ = 0.01, all layers alike: the best closed forms measured.
    """
    if kind != "discriminant" or ATTENTION not in anatomy.matrices():
        return []
    last = len(anatomy.layers) - 1
    points: list[dict[str, object]] = []
    for strength in (1.0, 0.85, 0.7):
        point: dict[str, object] = {"ridge_index": RIDGES.index(1e-2)}
        for component in anatomy.matrices():
            point |= {
                f"{component}.max_weight": strength if component == ATTENTION else 0.0,
                f"{component}.max_weight_position": last / 2,
                f"{component}.min_weight_fraction": 1.0,
                f"{component}.min_weight_distance": max(1.0, float(last)),
            }
        points.append(point)
    return points
