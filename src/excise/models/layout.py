"""How a loaded model's weights lie: in this processor's order, if the model shows that it runs so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from excise.devices.out_of_memory import is_out_of_memory
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.errors import TrialError, first_line
from excise.models.blocked import block, blockable, unblock

_TEST_TOKENS = 3
_SLOWER = "weights lie in PyTorch's order, which is slower than this processor's"


def lay_out(model: PreTrainedModel, prompt: Sequence[int]) -> str | None:
    """Let weights lie in blocks if the model runs with them as it ran without; returns why not otherwise.

    prompt: tokens that it is tried on, in passes and in decoding, which some models do in different ways.
    Raises RuntimeError or MemoryError if memory runs out.
    """
    if not blockable(model):
        return None
    prompts = [prompt]
    before = first_token_logits(model, prompts, 1).float()
    try:
        block(model)
        greedy(model, prompts, max_new_tokens=_TEST_TOKENS, slots=1)
        after = first_token_logits(model, prompts, 1).float()
    except (RuntimeError, TypeError, AttributeError, TrialError, MemoryError) as error:
        # A layer that looks into its own weights can have them in the ordinary order only.
        unblock(model)
        if is_out_of_memory(error):
            raise
        return f"{_SLOWER}: {first_line(error)}"
    # Sums in another order differ by rounding; what differs by more was not the same sum.
    if (before - after).norm() <= torch.finfo(model.dtype).eps ** 0.5 * before.norm():
        return None
    unblock(model)
    return f"{_SLOWER}: in its own, logits were other ones"
