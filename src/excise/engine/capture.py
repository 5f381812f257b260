"""What flows through a model on a set of prompts: residual vectors and statistics of writers' outputs.

Statistics stream: one pass over the prompts, sums in float64, nothing kept a token. The common beginning
of all prompts is run once and counted as often as there are prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

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
    """Call `listener(index, output)` with the output [row, token, d] of each named module."""

    def hook(index: int):  # type: ignore[no-untyped-def]
        def listen(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            listener(index, output[0] if isinstance(output, tuple) else output)

        return listen

    handles = [
        model.get_submodule(name).register_forward_hook(hook(index))
        for index, name in enumerate(names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def residuals(
    model: PreTrainedModel, layers: Sequence[str], prompts: Sequence[Tokens], limit: int
) -> Tensor:
    """The residual stream behind each layer at the last prompt token: [prompt, layer, d], float32."""
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
    if they were not asked for.
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
        device=model.device,
    )
    times_seen, at_end = 1, False

    def listen(index: int, output: Tensor) -> None:
        if at_end:
            sums[index] += output[:, -1].to(torch.float64).sum(0).cpu()
        if second_moments:
            tokens = output.reshape(-1, dimension).to(torch.float32)
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
    moments /= sum(len(prompt) for prompt in prompts)
    return WriterStatistics(sums / len(prompts), moments if second_moments else None)
