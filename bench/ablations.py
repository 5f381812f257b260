"""Operators that excise does not search, to be measured against those that it does.

Each is made from statistics of writers' own outputs that differ from those of the `discriminant` kind in one
thing. They are named as the kinds of edit files that former versions wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from excise.experiment.measurements import Measurements
from excise.experiment.train_statistics import TrainPrompts, accumulator, answered
from excise.kinds import FormerKind
from excise.operators.moments import Moments
from excise.operators.operator import Operator, discriminant, oblique, unit


class MomentsAndMeans:
    """An `Accumulator` of second moments S and of means μ, for covariances S − μμᵀ."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self._sums: dict[int, Tensor] = {}

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of writer `index`, each counted `weight` times."""
        self.moments.add(index, tokens, weight)
        total = weight * tokens.to(torch.float64).sum(0).cpu()
        self._sums[index] = self._sums.get(index, torch.zeros_like(total)) + total

    def covariance(self, index: int) -> Tensor:
        """[d, d], float64, on the host."""
        mean = self._sums[index] / self.moments.counts[index]
        return self.moments.system(index).matrix().cpu() - torch.outer(mean, mean)


def centred_discriminant(difference: Tensor, sums: MomentsAndMeans, ridge: float) -> Operator:
    """The discriminant with the covariance C in place of S: v = (C + ρ·mean(diag C)·I)⁻¹ δ.

    difference: [writer, d], δ = mean over target − mean over control of the writer's own output.
    """
    u = unit(difference.to(torch.float64))
    found: list[Tensor] = []
    for index, row in enumerate(u):
        covariance = sums.covariance(index)
        covariance.diagonal().add_(ridge * covariance.diagonal().mean())
        found.append(torch.linalg.solve(covariance, row))
    return oblique(u, torch.stack(found))


def leace(difference: Tensor, sums: MomentsAndMeans) -> Operator:
    """W⁺ P W with W = Σ^(−1/2) and P the projector on W δ (Belrose et al. 2023, arXiv 2306.03819, eq. 4).

    Its rank is 1, because two classes differ along one line: u = δ, v ∝ W² δ. Σ is inverted on the
    directions that it has. difference: as in `centred_discriminant`; sums: over tokens of both classes.
    """
    u = unit(difference.to(torch.float64))
    found: list[Tensor] = []
    for index, row in enumerate(u):
        values, vectors = torch.linalg.eigh(sums.covariance(index))
        there = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float32).eps
        whitening = vectors[:, there] * values[there].rsqrt()
        found.append(whitening @ (whitening.T @ row))
    return oblique(u, torch.stack(found))


def _of_tokens(source: TrainPrompts, rows: int, ridge: float) -> Operator:
    moments = accumulator(source)
    target = source.ends(source.target, rows)
    control = source.ends(source.control, rows, all_tokens=moments)
    return discriminant(target.means - control.means, moments, ridge)


def _centred(source: TrainPrompts, rows: int, ridge: float) -> Operator:
    sums = MomentsAndMeans(accumulator(source))
    target = source.ends(source.target, rows)
    control = source.ends(source.control, rows, all_tokens=sums)
    return centred_discriminant(target.means - control.means, sums, ridge)


def _of_answers(source: TrainPrompts, rows: int, ridge: float) -> Operator:
    moments = accumulator(source)
    target, control = source.ends(source.target, rows), source.ends(source.control, rows)
    source.ends(answered(source, rows), rows, all_tokens=moments)
    return discriminant(target.means - control.means, moments, ridge)


def _leace(source: TrainPrompts, rows: int, ridge: float) -> Operator:
    sums = MomentsAndMeans(accumulator(source))
    target = source.ends(source.target, rows, last_tokens=sums)
    control = source.ends(source.control, rows, last_tokens=sums)
    return leace(target.means - control.means, sums)


ABLATIONS: Mapping[FormerKind, Callable[[TrainPrompts, int, float], Operator]] = {
    "discriminant_tokens": _of_tokens,
    "discriminant_centred": _centred,
    "discriminant_answers": _of_answers,
    "leace": _leace,
}


def ablation(experiment: Measurements, kind: FormerKind, ridge: float) -> Operator:
    """The operator of an ablation, [writer, d], from the train prompts. ridge: LEACE has none."""
    runner = experiment.runner
    source = TrainPrompts.of(experiment.anatomy, runner, experiment.prompts)
    return runner.in_rows(lambda rows: ABLATIONS[kind](source, rows, ridge))
