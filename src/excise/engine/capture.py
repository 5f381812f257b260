"""Residual vectors and statistics of writers' outputs on a set of prompts.

Statistics stream: one pass over the prompts, sums in float64, no token is stored. The common prefix of all
prompts runs once and counts once for each prompt. On the plain path prompts share no prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.devices.transfers import as_float64, on_host
from excise.engine.prefill import Prefill, Tokens, all_finite, gather_finite, right_aligned


@contextmanager
def listening(
    model: nn.Module, names: Sequence[str], listener: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `listener(index, output)` with each output of each named module, as [row, token, d].

    A module that the model runs several times in one pass calls it each time. Raises ValueError if an
    output is not one vector for each token.
    """
    shape = torch.Size()

    def note_shape(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal shape
        shape = inputs[0].shape

    def listen(
        index: int, module: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]
    ) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        if tensor.dim() == 2 and len(tensor) == shape.numel():
            # Experts see all tokens of all rows as one list.
            tensor = tensor.view(*shape, -1)
        if tensor.dim() == 4 and tensor.shape[1:-1] == shape:
            # gemma3n keeps several residual streams; its blocks read the first.
            tensor = tensor[0]
        if tensor.dim() == 4 and tensor.shape[:2] == shape:
            # Hyper-connections keep several streams, side by side at each token.
            tensor = tensor.flatten(2)
        if tensor.shape[:-1] != shape:
            raise ValueError(
                f"{names[index]} returns shape {tuple(tensor.shape)} for {shape[0]} rows of "
                f"{shape[1]} tokens: not one vector for each token"
            )
        listener(index, tensor)

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(note_shape))
        for index, name in enumerate(names):
            module = model.get_submodule(name)
            hooks.enter_context(module.register_forward_hook(partial(listen, index)))
        yield


class Residuals:
    """The residual stream after each layer at the last prompt token: `values` [prompt, layer, d], float32.

    If a layer runs several times in one pass, its last output counts. If a model keeps several streams side
    by side, which every layer mixes again, their mean counts.
    """

    def __init__(self, layers: Sequence[str], prompts: int, dimension: int) -> None:
        self.layers, self._dimension = layers, dimension
        self.values = torch.empty(prompts, len(layers), dimension)
        self._newest: dict[int, Tensor] = {}

    def listen(self, index: int, output: Tensor) -> None:
        """Take in the output of a layer."""
        last = output[:, -1].to(torch.float32)
        self._newest[index] = last.reshape(len(last), -1, self._dimension).mean(1)

    def store(self, rows: Sequence[int]) -> None:
        """Store the last outputs as those of these prompts."""
        values = on_host([self._newest[index] for index in range(len(self.layers))])
        self.values[list(rows)] = torch.stack(values, dim=1)


def residuals(
    model: PreTrainedModel,
    layers: Sequence[str],
    prompts: Sequence[Tokens],
    limit: int,
    *,
    dimension: int,
) -> Tensor:
    """`Residuals.values` of all prompts, in one pass."""
    found = Residuals(layers, len(prompts), dimension)
    with torch.inference_mode(), listening(model, layers, found.listen):
        prefill = Prefill.start(model, prompts)
        for rows in prefill.groups(limit):
            prefill.run(rows, cached=False)
            found.store(rows)
    return found.values


class Accumulator(Protocol):
    """Sums over the outputs of writers."""

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of writer `index`, each counted `weight` times."""


@dataclass(frozen=True)
class EndStatistics:
    """Statistics of writers' own outputs at the last prompt token, over a set of prompts, float64.

    means: [writer, d]. spreads: [writer], the trace of the covariance. prompts: their number. If a writer
    runs several times in one pass, all its outputs count.
    """

    means: Tensor
    spreads: Tensor
    prompts: int

    def copy(self) -> EndStatistics:
        """The same with tensors of their own, which outside inference mode can be used for training."""
        return EndStatistics(self.means.clone(), self.spreads.clone(), self.prompts)


@dataclass(frozen=True)
class Accumulators:
    """The accumulators that a pass of `writer_statistics` also fills.

    all_tokens: takes in the outputs at all tokens. last_tokens: at the last prompt tokens, each counted
    `last_weight` times. residual: the residual stream.
    """

    all_tokens: Accumulator | None = None
    last_tokens: Accumulator | None = None
    last_weight: float = 1.0
    residual: Residuals | None = None


@torch.inference_mode()
def writer_statistics(
    model: PreTrainedModel,
    writers: Sequence[str],
    prompts: Sequence[Tokens],
    limit: int,
    *,
    dimension: int,
    accumulators: Accumulators = Accumulators(),
) -> EndStatistics:
    """One pass over `prompts`, at most `limit` at a time, which also fills the accumulators.

    Raises TrialError if a logit is not finite.
    """
    all_tokens, residual = accumulators.all_tokens, accumulators.residual
    ends = [_EndSums(dimension) for _ in writers]
    # Which columns of a pass are tokens; None while the common prefix runs.
    own: Callable[[Tensor], Tensor] | None = None

    def listen(index: int, output: Tensor) -> None:
        if own is not None:
            ends[index].add(as_float64(output[:, -1]))
            if accumulators.last_tokens is not None:
                accumulators.last_tokens.add(index, output[:, -1], accumulators.last_weight)
        if all_tokens is not None:
            tokens = output.reshape(-1, dimension)
            # The common prefix is part of every prompt, but runs once.
            all_tokens.add(index, own(tokens) if own else tokens, 1.0 if own else len(prompts))

    finite: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(listening(model, writers, listen))
        if residual is not None:
            stack.enter_context(listening(model, residual.layers, residual.listen))
        prefill = Prefill.start(model, prompts)
        shared = prefill.prefix.length
        for rows in prefill.groups(limit):
            own = _token_columns(right_aligned([len(prompts[row]) - shared for row in rows]))
            group = prefill.run(rows, cached=False, checked=False)
            finite.append(all_finite(group.logits))
            if residual is not None:
                residual.store(rows)
    found = gather_finite([*(each.sums for each in ends), *(each.powers for each in ends)], finite)
    sums, powers = torch.stack(found[: len(ends)]), torch.stack(found[len(ends) :])
    # Counted for each writer: a writer whose weights are shared between layers runs more than once a pass.
    counts = torch.tensor([each.count for each in ends], dtype=torch.float64).clamp_min(1)
    means = sums / counts.unsqueeze(1)
    spreads = powers / counts - means.square().sum(1)
    return EndStatistics(means, spreads.clamp_min(0), len(prompts))


class _EndSums:
    """Sums over one writer's outputs at the last prompt token, float64, on the outputs' device."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.sums = torch.zeros(dimension, dtype=torch.float64)
        self.powers = torch.zeros((), dtype=torch.float64)

    def add(self, last: Tensor) -> None:
        """Add the outputs of some rows [row, d]."""
        self.sums = self.sums.to(last.device) + last.sum(0)
        self.powers = self.powers.to(last.device) + last.square().sum()
        self.count += len(last)


def _token_columns(present: Tensor) -> Callable[[Tensor], Tensor]:
    """Selects the rows of tokens [row · column, d] where `present` [row, column] is True, not padding.

    It selects by indices, which the host knows. With a mask the host would wait for the device, because only
    the device knows how many tokens the mask selects.
    """
    places = present.flatten().nonzero().squeeze(1)
    on: dict[torch.device, Tensor] = {}

    def own(tokens: Tensor) -> Tensor:
        if len(places) == len(tokens):
            return tokens
        if tokens.device not in on:
            on[tokens.device] = places.to(tokens.device)
        return tokens.index_select(0, on[tokens.device])

    return own
