"""The bank of a run: directions, or discriminants for every ridge, from the train prompts."""

from __future__ import annotations

import torch

from excise.config import Settings
from excise.directions import difference, geometric_median, mean, winsorise
from excise.edit.operator import Operator
from excise.engine.batch_size import LEAST_MEMORY
from excise.engine.capture import WriterStatistics, residuals, writer_statistics
from excise.model.gains import post_norm_gains, row_norms
from excise.model.load import LoadedModel
from excise.model.writers import Anatomy
from excise.prompts.splits import PromptParts
from excise.run.runner import Runner
from excise.search.bank import Bank, DiscriminantBank, residual_bank, solve_discriminants
from excise.search.space import RIDGES

_MOMENTS_SHARE = 0.15
"""Share of the model's size that second moments may take at a time; more writers take more passes."""


def build_bank(
    settings: Settings,
    loaded: LoadedModel,
    anatomy: Anatomy,
    runner: Runner,
    prompts: PromptParts,
) -> Bank:
    """Directions, or discriminants for every ridge, from the train prompts."""
    target = runner.chat.encode(prompts.target.train.prompts)
    control = runner.chat.encode(prompts.control.train.prompts)
    if settings.kind == "discriminant":
        return runner.in_rows(
            lambda rows: _discriminant_bank(loaded, anatomy, target, control, rows)
        )
    centre = geometric_median if settings.direction_from == "geometric_median" else mean
    centres = [
        centre(
            winsorise(
                runner.in_rows(
                    lambda rows, prompts=tokens: residuals(  # type: ignore[misc]
                        loaded.model, anatomy.layers, prompts, rows, dimension=anatomy.dimension
                    )
                ),
                settings.winsorise,
            )
        )
        for tokens in (target, control)
    ]
    return residual_bank(
        difference(centres[0], centres[1], orthogonalise=settings.orthogonalise),
        anatomy,
        post_norm_gains(loaded.model, anatomy.writers, anatomy.dimension),
        row_norms(loaded.model, anatomy.writers, anatomy.dimension)
        if settings.kind == "row_normalised"
        else None,
    )


def _discriminant_bank(
    loaded: LoadedModel,
    anatomy: Anatomy,
    target: list[list[int]],
    control: list[list[int]],
    rows: int,
) -> DiscriminantBank:
    """Discriminants of all writers, as many at a time as their second moments fit in memory."""
    size = anatomy.dimension
    budget = max(_MOMENTS_SHARE * loaded.bytes, LEAST_MEMORY)
    at_a_time = max(1, int(budget // (size * size * 8)))
    u = {ridge: torch.empty(len(anatomy.names), size) for ridge in RIDGES}
    v = {ridge: torch.empty(len(anatomy.names), size) for ridge in RIDGES}

    def statistics(
        names: tuple[str, ...], prompts: list[list[int]], moments: bool
    ) -> WriterStatistics:
        return writer_statistics(
            loaded.model, names, prompts, rows, dimension=size, second_moments=moments
        )

    for start in range(0, len(anatomy.names), at_a_time):
        names = anatomy.names[start : start + at_a_time]
        solved = solve_discriminants(
            statistics(names, target, False), statistics(names, control, True), RIDGES
        )
        for ridge, operator in solved.items():
            u[ridge][start : start + len(names)] = operator.u
            v[ridge][start : start + len(names)] = operator.v
    return DiscriminantBank({ridge: Operator(u[ridge], v[ridge]) for ridge in RIDGES})
