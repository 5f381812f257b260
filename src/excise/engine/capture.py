"""What flows through a model on a set of prompts: residual vectors and statistics of writers' outputs.

Statistics stream: one pass over the prompts, sums in float64, nothing kept a token. The common beginning
of all prompts is run once and counted as often as there are prompts; on the plain path nothing is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.engine.device import input_device
from excise.engine.prefill import (
    Tokens,
    common_prefix_length,
    length_groups,
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


def residuals(
    model: PreTrainedModel, layers: Sequence[str], prompts: Sequence[Tokens], limit: int
) -> Tensor:
    """The residual stream behind each layer at the last prompt token: [prompt, layer, d], float32.

    Of a layer that runs several times in one pass, what it puts out last counts.
    """
    newest: dict[int, Tensor] = {}

    def listen(index: int, output: Tensor) -> None:
        newest[index] = output[:, -1].to("cpu", torch.float32)

    result: Tensor | None = None
    with listening(model, layers, listen):
        for group in run_all(model, prompts, limit):
            stacked = torch.stack([newest[index] for index in range(len(layers))], dim=1)
            if result is None:
                result = torch.empty(len(prompts), *stacked.shape[1:])
            result[list(group.rows)] = stacked
    if result is None:
        raise ValueError("no prompts")
    return result


@dataclass(frozen=True)
class WriterStatistics:
    """Statistics of writers' own outputs over a set of prompts, float64.

    means: [writer, d] at the last prompt token. second_moments: [writer, d, d] over all tokens, or None
    if they were not asked for. Of a writer that runs several times in one pass, over all its outputs.
    """

    means: Tensor
    second_moments: Tensor | None


@torch.inference_mode()
def writer_statistics(
    model: PreTrainedModel,
    writers: Sequence[str],
    prompts: Sequence[Tokens],
    limit: int,
    *,
    dimension: int,
    second_moments: bool,
) -> WriterStatistics:
    """One pass over `prompts`, at most `limit` at a time."""
    sums = torch.zeros(len(writers), dimension, dtype=torch.float64)
    # Taken once and filled in place: this is the largest thing that a search ever allocates.
    moments = torch.zeros(
        len(writers) if second_moments else 0,
        dimension,
        dimension,
        dtype=torch.float64,
        device=input_device(model),
    )
    # Counted for each writer: one whose weights are shared between layers speaks more than once a pass.
    last_tokens, all_tokens = [0] * len(writers), [0] * len(writers)
    times_seen, at_end = 1, False

    def listen(index: int, output: Tensor) -> None:
        if at_end:
            sums[index] += output[:, -1].to(torch.float64).sum(0).cpu()
            last_tokens[index] += len(output)
        if second_moments:
            tokens = output.reshape(-1, dimension).to(torch.float32)
            all_tokens[index] += len(tokens) * times_seen
            # Products in float32, sums over batches in float64: the sum is what loses digits.
            moments[index].add_((tokens.T @ tokens).to(moments.device), alpha=times_seen)

    prefix_length = common_prefix_length(prompts)
    with listening(model, writers, listen):
        # The common beginning stands in every prompt, and is run once.
        times_seen = len(prompts)
        prefix = run_prefix(model, prompts[0][:prefix_length])
        times_seen, at_end = 1, True
        # Equal lengths only: padding would count as tokens.
        for rows in length_groups(prompts, range(len(prompts)), limit):
            run_group(model, prompts, rows, prefix)
    for index in range(len(writers)):
        sums[index] /= max(1, last_tokens[index])
        if second_moments:
            moments[index] /= max(1, all_tokens[index])
    return WriterStatistics(sums, moments if second_moments else None)
