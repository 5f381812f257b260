"""Statistics of the train prompts: moments and means of writers' outputs, and the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from excise.anatomy.writers import Anatomy
from excise.devices.memory import execution_device
from excise.engine.batch_size import batch_memory, slots_within
from excise.engine.capture import (
    Accumulator,
    Accumulators,
    EndStatistics,
    Residuals,
    residuals,
    writer_statistics,
)
from excise.engine.decode import greedy
from excise.experiment.runner import Runner
from excise.models.positions import within_positions
from excise.models.weights import stored_bytes
from excise.operators.moments import ExactMoments, Moments, SketchedMoments
from excise.prompts.splits import Prompts

_MOMENTS_SHARE = 0.1
"""Share of the model's size for exact second moments; larger moments are sketched."""
_LEAST_MEMORY = 160 * 2**20
"""Bytes that second moments may always take."""
_LEAST_ROWS = 256
"""Fewest rows of a sketch for each writer."""
ANSWER_TOKENS = 32
"""Tokens of an answer that are used."""
_ANSWERED = 64
"""Number of control prompts that are answered, spread over all."""


@dataclass(frozen=True)
class TrainPrompts:
    """The source of a bank: the model in its runner, its writers, and train prompts as tokens."""

    anatomy: Anatomy
    runner: Runner
    target: Sequence[Sequence[int]]
    control: Sequence[Sequence[int]]

    @classmethod
    def of(cls, anatomy: Anatomy, runner: Runner, prompts: Prompts) -> TrainPrompts:
        """The train prompts, encoded."""
        encode = runner.chat.encode
        target, control = prompts.target.train.prompts, prompts.control.train.prompts
        return cls(anatomy, runner, encode(target), encode(control))

    def residuals(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """[prompt, layer, d] at the last prompt token."""
        model, layers = self.runner.model, self.anatomy.layers
        return self.runner.in_rows(
            lambda rows: residuals(model, layers, prompts, rows, dimension=self.anatomy.dimension)
        )

    def streams(self) -> tuple[Residuals, Residuals]:
        """Empty residual streams of the target and the control prompts."""
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
        last_weight: float = 1.0,
        stream: Residuals | None = None,
    ) -> EndStatistics:
        """Statistics of writers' outputs at the last prompt token; moments fill as tokens pass."""
        return writer_statistics(
            self.runner.model,
            self.anatomy.names,
            prompts,
            rows,
            dimension=self.anatomy.dimension,
            accumulators=Accumulators(all_tokens, last_tokens, last_weight, stream),
        )


def accumulator(source: TrainPrompts) -> Moments:
    """Empty second moments, exact if those of all writers fit into their share of memory."""
    writers, size = len(source.anatomy.names), source.anatomy.dimension
    budget = max(_MOMENTS_SHARE * stored_bytes(source.runner.model), _LEAST_MEMORY)
    model = source.runner.model
    devices = [execution_device(model.get_submodule(name)) for name in source.anatomy.names]
    if writers * size * size * 8 <= budget:
        return ExactMoments(writers, size, devices)
    rows = max(_LEAST_ROWS, int(budget // (writers * size * 4)))
    return SketchedMoments(writers, size, rows, devices=devices)


def answered(source: TrainPrompts, rows: int) -> list[list[int]]:
    """Some control prompts, each with the model's answer."""
    step = max(1, len(source.control) // _ANSWERED)
    prompts = source.control[::step][:_ANSWERED]
    model = source.runner.model
    # Independent of free memory, because rounding, and with it an answer, may depend on the number of slots.
    budget = batch_memory(stored_bytes(source.runner.model))
    fitting = slots_within(budget, model, prompts, ANSWER_TOKENS)
    most = within_positions(model, prompts, ANSWER_TOKENS)
    answers = greedy(model, prompts, max_new_tokens=most, slots=min(rows, fitting))
    return [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]


@dataclass(frozen=True)
class Measured:
    """Statistics of the train prompts.

    moments: of each writer's output, with S weighted as damage is measured: half of it from the last tokens
    of control prompts, where answers begin, half from all tokens of the prompts and their answers. target,
    control: statistics at the last prompt token. streams: residual streams [prompt, layer, d] of both sets;
    empty if they were not asked for.
    """

    moments: Moments
    target: EndStatistics
    control: EndStatistics
    streams: tuple[Tensor, ...]


def measured(source: TrainPrompts, rows: int, with_residuals: bool) -> Measured:
    """All statistics of the train prompts; each set passes through the model once."""
    moments = accumulator(source)
    streams = source.streams() if with_residuals else (None, None)
    target = source.ends(source.target, rows, stream=streams[0])
    with_answers = answered(source, rows)
    control = source.ends(
        source.control,
        rows,
        last_tokens=moments,
        # Together they weigh as much as all tokens of the answered prompts.
        last_weight=sum(map(len, with_answers)) / len(source.control),
        stream=streams[1],
    )
    source.ends(with_answers, rows, all_tokens=moments)
    values = tuple(stream.values for stream in streams if stream is not None)
    return Measured(moments, target, control, values)
