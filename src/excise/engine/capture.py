"""What flows through a model on a set of prompts: residual vectors and statistics of writers' outputs.

Statistics stream: one pass over the prompts, sums in float64, nothing kept a token. The common beginning
of all prompts is run once and counted as often as there are prompts; on the plain path nothing is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.devices.doubles import doubles
from excise.devices.transfers import on_host
from excise.engine.numbers import are_numbers, gathered
from excise.engine.prefill import (
    Tokens,
    common_prefix_length,
    length_groups,
    padding_slack,
    right_aligned,
    run_all,
    run_group,
    run_prefix,
)

Listener = Callable[[int, Tensor], None]


@contextmanager
def listening(model: nn.Module, names: Sequence[str], listener: Listener) -> Iterator[None]:
    """Call `listener(index, output)` with each output of each named module, as [row, token, d].

    A module that the model runs several times in one pass is heard each time. Raises ValueError if an
    output is not one vector for each token.
    """
    shape = torch.Size()

    def note_shape(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal shape
        shape = inputs[0].shape

    def hook(index: int):  # type: ignore[no-untyped-def]
        def listen(module: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]) -> None:
            tensor = output if isinstance(output, Tensor) else output[0]
            if tensor.dim() == 2 and len(tensor) == shape.numel():
                # Experts see all tokens of all rows as one list.
                tensor = tensor.view(*shape, -1)
            if tensor.dim() == 4 and tensor.shape[1:-1] == shape:
                # gemma3n keeps several residual streams; the first is the one that its blocks read.
                tensor = tensor[0]
            if tensor.dim() == 4 and tensor.shape[:2] == shape:
                # Hyper-connections keep several, side by side at each token.
                tensor = tensor.flatten(2)
            if tensor.shape[:-1] != shape:
                raise ValueError(
                    f"{names[index]} puts out {tuple(tensor.shape)} for {shape[0]} rows of "
                    f"{shape[1]} tokens: not one vector for each token"
                )
            listener(index, tensor)

        return listen

    handles = [model.register_forward_pre_hook(note_shape)]
    for index, name in enumerate(names):
        handles.append(model.get_submodule(name).register_forward_hook(hook(index)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Residuals:
    """The residual stream behind each layer at the last prompt token: `values` [prompt, layer, d], float32.

    Of a layer that runs several times in one pass, what it puts out last counts; of several streams side
    by side, which every layer mixes again, their mean.
    """

    def __init__(self, layers: Sequence[str], prompts: int, dimension: int) -> None:
        self.layers, self._dimension = layers, dimension
        self.values = torch.empty(prompts, len(layers), dimension)
        self._newest: dict[int, Tensor] = {}

    def listen(self, index: int, output: Tensor) -> None:
        """Note what a layer puts out."""
        last = output[:, -1].to(torch.float32)
        self._newest[index] = last.reshape(len(last), -1, self._dimension).mean(1)

    def store(self, rows: Sequence[int]) -> None:
        """What was noted last belongs to these prompts."""
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
    with listening(model, layers, found.listen):
        for group in run_all(model, prompts, limit):
            found.store(group.rows)
    return found.values


class Accumulator(Protocol):
    """What takes in the outputs of writers as they come."""

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of writer `index`, each counted `weight` times."""


@dataclass(frozen=True)
class EndStatistics:
    """Statistics of writers' own outputs at the last prompt token, over a set of prompts, float64.

    means: [writer, d]. spreads: [writer], the trace of the covariance. prompts: their number. Of a writer
    that runs several times in one pass, over all its outputs.
    """

    means: Tensor
    spreads: Tensor
    prompts: int


@torch.inference_mode()
def writer_statistics(
    model: PreTrainedModel,
    writers: Sequence[str],
    prompts: Sequence[Tokens],
    limit: int,
    *,
    dimension: int,
    all_tokens: Accumulator | None = None,
    last_tokens: Accumulator | None = None,
    last_weight: float = 1.0,
    residual: Residuals | None = None,
) -> EndStatistics:
    """One pass over `prompts`, at most `limit` at a time; tokens go to the accumulators as they come.

    last_weight: how often each last token counts. residual: takes in the residual stream on the way.
    Raises TrialError if a logit is not a number.
    """
    ends = [_Ends(dimension) for _ in writers]
    # Which columns of a pass are tokens; None while the common beginning runs.
    own: _Own | None = None

    def listen(index: int, output: Tensor) -> None:
        if own is not None:
            ends[index].add(doubles(output[:, -1]))
            if last_tokens is not None:
                last_tokens.add(index, output[:, -1], last_weight)
        if all_tokens is None:
            return
        tokens = output.reshape(-1, dimension)
        if own is None:
            # The common beginning stands in every prompt, and is run once.
            all_tokens.add(index, tokens, len(prompts))
        else:
            all_tokens.add(index, own.of(tokens))

    numbers: list[Tensor] = []
    prefix_length = common_prefix_length(prompts)
    with ExitStack() as stack:
        stack.enter_context(listening(model, writers, listen))
        if residual is not None:
            stack.enter_context(listening(model, residual.layers, residual.listen))
        prefix = run_prefix(model, prompts[0][:prefix_length])
        slack = padding_slack(model, prompts, prefix)
        for rows in length_groups(prompts, range(len(prompts)), limit, slack):
            own = _Own(right_aligned([len(prompts[row]) - prefix.length for row in rows]))
            group = run_group(model, prompts, rows, prefix, cached=False, checked=False)
            numbers.append(are_numbers(group.logits))
            if residual is not None:
                residual.store(rows)
    found = gathered([*(one.sums for one in ends), *(one.powers for one in ends)], numbers)
    sums, powers = torch.stack(found[: len(ends)]), torch.stack(found[len(ends) :])
    # Counted for each writer: one whose weights are shared between layers speaks more than once a pass.
    heard = torch.tensor([one.count for one in ends], dtype=torch.float64).clamp_min(1)
    means = sums / heard.unsqueeze(1)
    spreads = powers / heard - means.square().sum(1)
    return EndStatistics(means, spreads.clamp_min(0), len(prompts))


class _Ends:
    """Sums over one writer's outputs at the last prompt token, float64, where they lie."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.sums = torch.zeros(dimension, dtype=torch.float64)
        self.powers = torch.zeros((), dtype=torch.float64)

    def add(self, last: Tensor) -> None:
        """Add the outputs of some rows [row, d]."""
        self.sums = self.sums.to(last.device) + last.sum(0)
        self.powers = self.powers.to(last.device) + last.square().sum()
        self.count += len(last)


class _Own:
    """Picks the tokens of a pass that are no padding.

    By their numbers, which are known on the host: a device that is given a mask has to be waited for, because
    only it knows how many tokens come of it.
    """

    def __init__(self, present: Tensor) -> None:
        self._all = bool(present.all())
        self._places = present.flatten().nonzero().squeeze(1)
        self._on: dict[torch.device, Tensor] = {}

    def of(self, tokens: Tensor) -> Tensor:
        """Those of `tokens` [row · column, d]."""
        if self._all:
            return tokens
        if tokens.device not in self._on:
            self._on[tokens.device] = self._places.to(tokens.device)
        return tokens.index_select(0, self._on[tokens.device])
