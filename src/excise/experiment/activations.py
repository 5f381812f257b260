"""The residual stream after each layer, at chosen tokens of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy
from excise.devices.memory import input_device
from excise.engine.capture import listening
from excise.engine.prefill import Tokens
from excise.errors import PromptError


# Not in inference mode, whose tensors cannot be used for training, for example of a probe.
@torch.no_grad()
def activations(
    model: PreTrainedModel,
    anatomy: Anatomy,
    prompts: Sequence[Tokens],
    positions: Sequence[int],
) -> Tensor:
    """[prompt, position, layer, d], float32, on the host; each prompt runs by itself.

    positions: of tokens, as indices of Python: −1 is the last. Several residual streams are averaged. Raises
    PromptError if a prompt has no token at a position, or without prompts or positions.
    """
    if not prompts or not positions:
        raise PromptError("activations: give at least one prompt and one position")
    shortest = min(map(len, prompts))
    if wrong := [each for each in positions if not -shortest <= each < shortest]:
        raise PromptError(
            f"position {wrong[0]}: the shortest prompt has {shortest} tokens, chat template included"
        )
    found = torch.empty(len(prompts), len(positions), len(anatomy.layers), anatomy.dimension)
    for row, tokens in enumerate(prompts):

        def take(layer: int, output: Tensor, row: int = row) -> None:
            chosen = output[0, list(positions)].to(torch.float32)
            streams = chosen.reshape(len(positions), -1, anatomy.dimension)
            found[row, :, layer] = streams.mean(1).cpu()

        with listening(model, anatomy.layers, take):
            model(torch.tensor([list(tokens)], device=input_device(model)), use_cache=False)
    return found
