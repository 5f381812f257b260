"""What the train prompts are asked for: moments of writers' outputs, their means, the residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from excise.anatomy.writers import Anatomy
from excise.devices.device import execution_device
from excise.engine.batch_size import batch_memory, slots_within
from excise.engine.capture import (
    Accumulator,
    EndStatistics,
    Residuals,
    residuals,
    writer_statistics,
)
from excise.engine.decode import greedy
from excise.experiment.runner import Runner
from excise.kinds import Statistics
from excise.models.load import LoadedModel
from excise.models.positions import within_positions
from excise.operators.moments import ExactMoments, Moments, SketchedMoments

_MOMENTS_SHARE = 0.1
"""Share of the model's size that second moments may take; where exact ones take more, they are sketched."""
_LEAST_MEMORY = 160 * 2**20
"""What they may take in any case."""
_LEAST_ROWS = 256
"""A sketch has at least so many rows a writer, whatever memory that takes."""
ANSWER_TOKENS = 32
"""Tokens of an answer that count for the kinds that look at answers."""
_ANSWERED = 64
"""Control prompts that are answered for them, spread over all."""

Moment = Mapping[Statistics, Moments]


@dataclass(frozen=True)
class TrainPrompts:
    """What a bank is made from: a model, what writes in it, train prompts as tokens."""

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

    def streams(self) -> tuple[Residuals, Residuals]:
        """What takes in the residual streams of the target and the control prompts."""
        layers, size = self.anatomy.layers, self.anatomy.dimension
        return (
            Residuals(layers, len(self.target), size),
            Residuals(layers, len(self.control), size),
        )

    def ends(
        self,
        prompts: Sequence[Sequence[int]],
        rows: int,
        *,
        all_tokens: Accumulator | None = None,
        last_tokens: Accumulator | None = None,
        stream: Residuals | None = None,
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
            residual=stream,
        )


def _accumulators(source: TrainPrompts, wanted: set[Statistics]) -> dict[Statistics, Moments]:
    """Empty second moments, exact if all of them fit into their share of memory."""
    writers, size = len(source.anatomy.names), source.anatomy.dimension
    budget = max(_MOMENTS_SHARE * source.loaded.bytes, _LEAST_MEMORY) / len(wanted)
    model = source.loaded.model
    devices = [execution_device(model.get_submodule(name)) for name in source.anatomy.names]
    if writers * size * size * 8 <= budget:
        return {each: ExactMoments(writers, size, devices) for each in sorted(wanted)}
    rows = max(_LEAST_ROWS, int(budget // (writers * size * 4)))
    return {each: SketchedMoments(writers, size, rows, devices=devices) for each in sorted(wanted)}


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


def _answered(source: TrainPrompts, rows: int) -> list[list[int]]:
    """Some control prompts, each with the model's answer to it."""
    step = max(1, len(source.control) // _ANSWERED)
    prompts = source.control[::step][:_ANSWERED]
    model = source.loaded.model
    # Not by what is free at the moment: rounding, and with it an answer, may depend on the number of slots.
    budget = batch_memory(source.loaded.bytes)
    fitting = slots_within(budget, model, prompts, ANSWER_TOKENS)
    most = within_positions(model, prompts, ANSWER_TOKENS)
    answers = greedy(model, prompts, max_new_tokens=most, slots=min(rows, fitting))
    return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]


@dataclass(frozen=True)
class Measured:
    """Moments, statistics of target and control prompts, residual streams [prompt, layer, d] if asked for."""

    moments: Moment
    target: EndStatistics
    control: EndStatistics
    streams: tuple[Tensor, ...]


def measured(
    source: TrainPrompts, wanted: set[Statistics], rows: int, with_residuals: bool
) -> Measured:
    """Everything that the train prompts are asked for; each set passes through the model once."""
    moments = _accumulators(source, wanted)
    all_tokens, last_tokens = _Shared(), _Shared()
    if "tokens" in moments:
        all_tokens.give(moments["tokens"])
    if "ends" in moments:
        last_tokens.give(moments["ends"])
    streams = source.streams() if with_residuals else (None, None)
    target = source.ends(source.target, rows, last_tokens=last_tokens, stream=streams[0])
    spoken = _answered(source, rows) if moments.keys() & {"answers", "weighted"} else []
    if "weighted" in moments:
        # As many as all tokens of the answered prompts together.
        weight = sum(map(len, spoken)) / len(source.control)
        last_tokens.give(moments["weighted"], weight)
    control = source.ends(
        source.control,
        rows,
        last_tokens=last_tokens,
        all_tokens=all_tokens,
        stream=streams[1],
    )
    if spoken:
        whole = _Shared()
        for statistics in moments.keys() & {"answers", "weighted"}:
            whole.give(moments[statistics])
        source.ends(spoken, rows, all_tokens=whole)
    values = tuple(stream.values for stream in streams if stream is not None)
    return Measured(moments, target, control, values)
