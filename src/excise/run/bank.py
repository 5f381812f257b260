"""The bank of a run: statistics of the train prompts, and every direction and operator made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from excise.config import Settings
from excise.directions.kinds import local_operator
from excise.directions.moments import ExactMoments, Moments, SketchedMoments
from excise.directions.residual import difference, geometric_median, mean, winsorise
from excise.edit.operator import Operator
from excise.edit.virtual import VirtualEdits
from excise.engine.batch_size import LEAST_MEMORY
from excise.engine.capture import Accumulator, EndStatistics, residuals, writer_statistics
from excise.engine.decode import greedy
from excise.engine.device import input_device
from excise.kinds import FACTS, Kind, Statistics
from excise.model.gains import post_norm_gains, row_norms
from excise.model.load import LoadedModel
from excise.model.writers import Anatomy
from excise.prompts.splits import PromptParts
from excise.run.runner import Runner
from excise.run.separation import require_enough_tokens, require_separable, separation
from excise.search.bank import Bank, ResidualBank, edit_of, residual_bank
from excise.search.space import RIDGES
from excise.search.start import closed_form_of

_MOMENTS_SHARE = 0.15
"""Share of the model's size that second moments may take; where exact ones take more, they are sketched."""
_LEAST_ROWS = 256
"""A sketch has at least so many rows a writer, whatever memory that takes."""
ANSWER_TOKENS = 32
"""Tokens of an answer that count for the kinds that look at answers."""
_ANSWERED = 64
"""Control prompts that are answered for them, spread over all."""

Moment = Mapping[Statistics, Moments]


@dataclass(frozen=True)
class _Source:
    """What a bank is made from: a model, what writes in it, train prompts as tokens."""

    settings: Settings
    loaded: LoadedModel
    anatomy: Anatomy
    runner: Runner
    target: Sequence[Sequence[int]]
    control: Sequence[Sequence[int]]

    def residuals(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """[prompt, layer, d] at the last prompt token."""
        model, layers = self.loaded.model, self.anatomy.layers
        return self.runner.in_rows(
            lambda rows: residuals(model, layers, prompts, rows, dimension=self.anatomy.dimension)
        )

    def ends(
        self,
        prompts: Sequence[Sequence[int]],
        rows: int,
        *,
        all_tokens: Accumulator | None = None,
        last_tokens: Accumulator | None = None,
    ) -> EndStatistics:
        """Statistics of writers' outputs at the last prompt token; moments fill as tokens pass."""
        return writer_statistics(
            self.loaded.model,
            self.anatomy.names,
            prompts,
            rows,
            dimension=self.anatomy.dimension,
            all_tokens=all_tokens,
            last_tokens=last_tokens,
        )


def build_bank(
    settings: Settings,
    loaded: LoadedModel,
    anatomy: Anatomy,
    runner: Runner,
    prompts: PromptParts,
) -> Bank:
    """Every direction and operator that the search may ask for, from the train prompts.

    Raises PromptError if target and control prompts cannot be told apart, or are too few for the ridge.
    """
    source = _Source(
        settings,
        loaded,
        anatomy,
        runner,
        runner.chat.encode(prompts.target.train.prompts),
        runner.chat.encode(prompts.control.train.prompts),
    )
    kinds = settings.kinds
    residual_kinds = [kind for kind in kinds if FACTS[kind].of_residuals]
    local_kinds = [kind for kind in kinds if not FACTS[kind].of_residuals]
    residual: ResidualBank | None = None
    local: dict[tuple[Kind, float | None], Operator] = {}
    moments: Moment = {}
    if residual_kinds:
        residual = residual_bank(
            _residual_directions(source, check=not local_kinds),
            anatomy,
            post_norm_gains(loaded.model, anatomy.writers, anatomy.dimension),
            row_norms(loaded.model, anatomy.writers, anatomy.dimension)
            if "row_normalised" in kinds
            else None,
        )
    if local_kinds:
        wanted = {FACTS[kind].statistics for kind in local_kinds}
        # Sums begin anew if memory runs out on the way.
        moments, target, control = runner.in_rows(lambda rows: _measured(source, wanted, rows))
        require_separable(separation(target, control))
        for statistics, sums in moments.items():
            if statistics != "ends":
                require_enough_tokens(sums, RIDGES, control.prompts)
        local = _solved(local_kinds, target.means - control.means, moments)
    bank = Bank(residual, local)
    for _ in range(settings.directions - 1):
        bank = replace(bank, further=(*bank.further, _next_bank(source, bank, moments)))
    return bank


def _residual_directions(source: _Source, *, check: bool) -> Tensor:
    """Unit directions [layer, d] of the residual stream, float64."""
    settings = source.settings
    centre = geometric_median if settings.direction_from == "geometric_median" else mean
    target, control = (source.residuals(prompts) for prompts in (source.target, source.control))
    if check:
        require_separable(separation(_ends_of(target), _ends_of(control)))
    return difference(
        centre(winsorise(target, settings.winsorise)),
        centre(winsorise(control, settings.winsorise)),
        orthogonalise=settings.orthogonalise,
    )


def _ends_of(residual: Tensor) -> EndStatistics:
    values = residual.to(torch.float64)
    return EndStatistics(values.mean(0), values.var(0, correction=0).sum(-1), len(values))


def _accumulators(source: _Source, wanted: set[Statistics]) -> dict[Statistics, Moments]:
    """Empty second moments, exact if all of them fit into their share of memory."""
    writers, size = len(source.anatomy.names), source.anatomy.dimension
    budget = max(_MOMENTS_SHARE * source.loaded.bytes, LEAST_MEMORY) / len(wanted)
    if writers * size * size * 8 <= budget:
        device = input_device(source.loaded.model)
        return {each: ExactMoments(writers, size, device) for each in sorted(wanted)}
    rows = max(_LEAST_ROWS, int(budget // (writers * size * 4)))
    return {each: SketchedMoments(writers, size, rows) for each in sorted(wanted)}


class _Shared:
    """Hands the tokens that it is given to several accumulators, counted a number of times in each."""

    def __init__(self) -> None:
        self._parts: list[tuple[Accumulator, float]] = []

    def give(self, accumulator: Accumulator, weight: float = 1.0) -> None:
        """Give tokens to this accumulator too, from now on."""
        self._parts.append((accumulator, weight))

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """See `Accumulator`."""
        for accumulator, share in self._parts:
            accumulator.add(index, tokens, weight * share)


def _answered(source: _Source, rows: int) -> list[list[int]]:
    """Some control prompts, each with the model's answer to it."""
    step = max(1, len(source.control) // _ANSWERED)
    prompts = source.control[::step][:_ANSWERED]
    answers = greedy(source.loaded.model, prompts, max_new_tokens=ANSWER_TOKENS, slots=rows)
    return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]


def _measured(
    source: _Source, wanted: set[Statistics], rows: int
) -> tuple[Moment, EndStatistics, EndStatistics]:
    """Moments, and statistics of target and control prompts; each set passes through the model once."""
    moments = _accumulators(source, wanted)
    all_tokens, last_tokens = _Shared(), _Shared()
    if "tokens" in moments:
        all_tokens.give(moments["tokens"])
    if "ends" in moments:
        last_tokens.give(moments["ends"])
    target = source.ends(source.target, rows, last_tokens=last_tokens)
    spoken = _answered(source, rows) if moments.keys() & {"answers", "weighted"} else []
    if "weighted" in moments:
        # As many as all tokens of the answered prompts together.
        weight = sum(map(len, spoken)) / len(source.control)
        last_tokens.give(moments["weighted"], weight)
    control = source.ends(source.control, rows, last_tokens=last_tokens, all_tokens=all_tokens)
    if spoken:
        whole = _Shared()
        for statistics in moments.keys() & {"answers", "weighted"}:
            whole.give(moments[statistics])
        source.ends(spoken, rows, all_tokens=whole)
    return moments, target, control


def _solved(
    kinds: Sequence[Kind], differences: Tensor, moments: Moment
) -> dict[tuple[Kind, float | None], Operator]:
    solved: dict[tuple[Kind, float | None], Operator] = {}
    for kind in kinds:
        facts = FACTS[kind]
        for ridge in RIDGES if facts.ridge else (None,):
            sums = moments[facts.statistics]
            solved[kind, ridge] = local_operator(kind, differences, sums, ridge or 0.0)
    return solved


def _next_bank(source: _Source, bank: Bank, moments: Moment) -> Bank:
    """The next direction: what still separates the prompts while the directions before it are removed.

    From each new δ the part along the earlier directions is taken as their operators see it, δ − u (vᵀδ).
    With v a solution for u in S, the new pair neither sees the earlier u nor is seen by the earlier v, so
    that all together are the oblique projector away from all of them, in whatever order they apply.
    """
    anatomy = source.anatomy
    kinds = source.settings.kinds
    first = closed_form_of(kinds[0], anatomy)
    edit = edit_of(first, bank, anatomy)
    residual: ResidualBank | None = None
    local: dict[tuple[Kind, float | None], Operator] = {}
    with VirtualEdits(source.loaded.model, edit.writers) as edits:
        edits.use(edit)
        if bank.residual is not None:
            directions = _residual_directions(source, check=False)
            earlier = [bank.residual, *(each.residual for each in bank.further if each.residual)]
            for one in earlier:
                known = one.directions.to(torch.float64)
                directions = directions - known * (known * directions).sum(-1, keepdim=True)
            directions = torch.nn.functional.normalize(directions, dim=-1)
            residual = replace(bank.residual, directions=directions.to(torch.float32))
        if bank.local:
            rows = source.runner.rows
            target, control = (
                source.ends(prompts, rows) for prompts in (source.target, source.control)
            )
            differences = target.means - control.means
            for kind, ridge in bank.local:
                remaining = differences
                for before in (bank, *bank.further):
                    pair = before.local[kind, ridge]
                    u, v = pair.u.to(torch.float64), pair.v.to(torch.float64)
                    remaining = remaining - u * (v * remaining).sum(-1, keepdim=True)
                sums = moments[FACTS[kind].statistics]
                local[kind, ridge] = local_operator(kind, remaining, sums, ridge or 0.0)
    return Bank(residual, local)
