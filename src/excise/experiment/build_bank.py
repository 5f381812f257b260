"""Builds the bank: directions and operators from statistics of the train prompts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from excise.anatomy.writers import Anatomy
from excise.edits.virtual import VirtualEdits
from excise.engine.capture import EndStatistics
from excise.experiment.bank import Bank, ResidualBank, edit_of, residual_bank
from excise.experiment.options import Options
from excise.experiment.runner import Runner
from excise.experiment.separation import require_enough_tokens, require_separable, separation
from excise.experiment.train_statistics import TrainPrompts, measured
from excise.kinds import of_residuals
from excise.models.weights import post_norm_gains, row_norms
from excise.operators.moments import Moments
from excise.operators.operator import Operator, discriminants
from excise.operators.residual import difference, geometric_median, mean, winsorise
from excise.prompts.splits import Prompts
from excise.search.space import RIDGES
from excise.search.start import closed_form_of


def build_bank(options: Options, anatomy: Anatomy, runner: Runner, prompts: Prompts) -> Bank:
    """The directions and operators of a search, from the train prompts.

    Raises PromptError if target and control prompts cannot be distinguished, or are too few for the ridge.
    """
    source = TrainPrompts.of(anatomy, runner, prompts)
    kinds = options.kinds
    with_residuals = any(map(of_residuals, kinds))
    residual: ResidualBank | None = None
    local: dict[float, Operator] = {}
    moments: Moments | None = None
    streams: tuple[Tensor, ...] = ()
    if "discriminant" in kinds:
        # The sums start again if memory runs out.
        found = runner.in_rows(lambda rows: measured(source, rows, with_residuals))
        moments, streams = found.moments, found.streams
        target, control = found.target, found.control
        require_separable(separation(target, control))
        require_enough_tokens(moments, RIDGES, control.prompts)
        local = discriminants(dict.fromkeys(RIDGES, target.means - control.means), moments)
    else:
        streams = source.residuals(source.target), source.residuals(source.control)
        require_separable(separation(*map(_ends_of, streams)))
    if streams:
        residual = residual_bank(
            residual_directions(options, *streams),
            anatomy,
            post_norm_gains(runner.model, anatomy.writers, anatomy.dimension),
            row_norms(runner.model, anatomy.writers, anatomy.dimension)
            if "row_normalised" in kinds
            else None,
        )
    bank = Bank(residual, local)
    for _ in range(options.directions - 1):
        bank = replace(bank, further=(*bank.further, _next_bank(options, source, bank, moments)))
    return bank


def residual_directions(options: Options, target: Tensor, control: Tensor) -> Tensor:
    """Unit directions [layer, d] from residual streams [prompt, layer, d], float64."""
    centre = geometric_median if options.direction_from == "geometric_median" else mean
    return difference(
        centre(winsorise(target, options.winsorise)),
        centre(winsorise(control, options.winsorise)),
        orthogonalise=options.orthogonalise,
    )


def _ends_of(residual: Tensor) -> EndStatistics:
    values = residual.to(torch.float64)
    return EndStatistics(values.mean(0), values.var(0, correction=0).sum(-1), len(values))


def _next_bank(options: Options, source: TrainPrompts, bank: Bank, moments: Moments | None) -> Bank:
    """The next direction, which separates the prompts after the removal of the earlier directions.

    The earlier operators are applied to each new δ: δ − u (vᵀδ). With v a solution for u in S, the new v is
    zero on the earlier u, and the earlier v are zero on the new u. All operators together are therefore the
    oblique projector away from all directions, in any order.
    """
    anatomy = source.anatomy
    first = closed_form_of(options.kinds[0], anatomy)
    edit = edit_of(first, bank, anatomy)
    residual: ResidualBank | None = None
    local: dict[float, Operator] = {}
    with VirtualEdits(source.runner.model, edit.writers) as edits:
        edits.use(edit)
        if bank.residual is not None:
            streams = source.residuals(source.target), source.residuals(source.control)
            directions = residual_directions(options, *streams)
            earlier = [bank.residual, *(each.residual for each in bank.further if each.residual)]
            for each in earlier:
                known = each.directions.to(torch.float64)
                directions = directions - known * (known * directions).sum(-1, keepdim=True)
            directions = torch.nn.functional.normalize(directions, dim=-1)
            residual = replace(bank.residual, directions=directions.to(torch.float32))
        if moments is not None:
            target, control = (
                source.runner.in_rows(partial(source.ends, prompts))
                for prompts in (source.target, source.control)
            )
            remaining: dict[float, Tensor] = {}
            for ridge in bank.local:
                difference = target.means - control.means
                for before in (bank, *bank.further):
                    pair = before.local[ridge]
                    u, v = pair.u.to(torch.float64), pair.v.to(torch.float64)
                    difference = difference - u * (v * difference).sum(-1, keepdim=True)
                remaining[ridge] = difference
            local = discriminants(remaining, moments)
    return Bank(residual, local)
