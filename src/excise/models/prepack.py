"""Prepacks a loaded model's weights, if the model then gives the same logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from excise.devices.out_of_memory import is_out_of_memory
from excise.devices.prepacked import prepack, prepackable, undo_prepacking
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.errors import TrialError, first_line

TEST_TOKENS = 3
_SLOWER = "weights are not prepacked for this processor, which makes passes slower"


def prepack_if_equal(model: PreTrainedModel, prompt: Sequence[int]) -> str | None:
    """Prepack the weights if the model still gives the same logits; otherwise returns why not.

    prompt: token ids for the test, which runs a forward pass and a short generation. Raises RuntimeError or
    MemoryError if memory runs out.
    """
    if not prepackable(model):
        return None
    prompts = [prompt]
    before = first_token_logits(model, prompts, 1).float()
    try:
        prepack(model)
        greedy(model, prompts, max_new_tokens=TEST_TOKENS, slots=1)
        after = first_token_logits(model, prompts, 1).float()
    except (RuntimeError, TypeError, AttributeError, TrialError, MemoryError) as error:
        # A layer that reads its own weights needs PyTorch's layout.
        undo_prepacking(model)
        if is_out_of_memory(error):
            raise
        return f"{_SLOWER}: {first_line(error)}"
    # Another order of summation changes the logits by rounding only.
    if (before - after).norm() <= torch.finfo(model.dtype).eps ** 0.5 * before.norm():
        return None
    undo_prepacking(model)
    return f"{_SLOWER}: prepacking changed the logits"
