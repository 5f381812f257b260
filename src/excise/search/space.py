"""The search space: the strength of each writer, and the direction.

The parameters are those of the field, so that results are comparable: a kernel over layers for each component
and, for kinds that use residual directions, the scope of the direction. The discriminant adds the ridge. The
kind itself is a parameter. The discriminant and the kinds of residual directions have parameters of their
own, because their best layers and strengths differ; the kinds of residual directions share theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from optuna.trial import BaseTrial
from torch import Tensor

from excise.anatomy.roles import ATTENTION
from excise.anatomy.writers import Anatomy
from excise.kinds import Kind, of_residuals

RIDGES = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
"""The ridges ρ, whose operators are solved before the search."""
RIDGE_INDEX = "writer.ridge_index"
SCOPE, DIRECTION_INDEX = "residual.direction_scope", "residual.direction_index"
REFUSAL_WEIGHT = "refusal_weight"
"""Parameter of a trial of the gradient search of former versions, which has no kernels."""


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
    """A point of the search space.

    direction_index: fractional layer whose direction all layers share; None for a direction of each layer.
    ridge: ρ of the discriminant. kernels: for each component. free: the strength of each writer, instead of
    kernels.
    """

    kind: Kind
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    direction_index: float | None = None
    ridge: float | None = None
    free: tuple[float, ...] | None = None

    def strengths(self, anatomy: Anatomy) -> Tensor:
        """The strength α of each writer: [writer], float32."""
        if self.free is not None:
            return torch.tensor(self.free)
        return torch.tensor(
            [self.kernels[writer.component].strength(writer.layer) for writer in anatomy.writers]
        )


def family(kind: Kind) -> str:
    """The prefix of a kind's parameters: "residual" or "writer"."""
    return "residual" if of_residuals(kind) else "writer"


def propose(trial: BaseTrial, kinds: Sequence[Kind], anatomy: Anatomy) -> Candidate:
    """The candidate of a trial; the study suggests the parameters of a new trial."""
    candidate = propose_operator(trial, kinds, anatomy)
    last, prefix = len(anatomy.layers) - 1, family(candidate.kind)
    kernels = {
        component: _kernel(trial, prefix, component, last) for component in anatomy.matrices()
    }
    return replace(candidate, kernels=kernels)


def propose_operator(trial: BaseTrial, kinds: Sequence[Kind], anatomy: Anatomy) -> Candidate:
    """The candidate without strengths; its operators depend on nothing else."""
    last = len(anatomy.layers) - 1
    kind: Kind = trial.suggest_categorical("kind", list(kinds))
    index: float | None = None
    ridge: float | None = None
    if of_residuals(kind):
        scope = trial.suggest_categorical(SCOPE, ["global", "per layer"])
        # Suggested for both scopes, because multivariate TPE needs the same space in every trial.
        position = trial.suggest_float(DIRECTION_INDEX, 0.4 * last, 0.9 * last)
        index = position if scope == "global" else None
    else:
        ridge = RIDGES[trial.suggest_int(RIDGE_INDEX, 0, len(RIDGES) - 1)]
    return Candidate(kind, direction_index=index, ridge=ridge)


def _kernel(trial: BaseTrial, prefix: str, component: str, last: int) -> Kernel:
    attention = component == ATTENTION
    if prefix == "writer":
        # The discriminant is best on all layers with lower strengths.
        weights = (0.3, 1.5) if attention else (-0.5, 1.2)
        positions, widest = (0.0, float(last)), float(last)
    else:
        weights = (0.2, 1.5) if attention else (-0.25, 1.5)
        positions, widest = (0.6 * last, float(last)), float(last)
    name = f"{prefix}.{component}"
    # Values below zero are clipped to 0, so that the search can switch a component off.
    max_weight = max(0.0, trial.suggest_float(f"{name}.max_weight", *weights))
    position = trial.suggest_float(f"{name}.max_weight_position", *positions)
    fraction = trial.suggest_float(f"{name}.min_weight_fraction", 0.0, 1.0)
    distance = trial.suggest_float(f"{name}.min_weight_distance", 1.0, max(1.0, widest))
    return Kernel(max_weight, position, fraction * max_weight, distance)
