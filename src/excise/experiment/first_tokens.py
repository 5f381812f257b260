"""Comparisons of the first answer token between the original and an edited model.

The original model's distributions are the same in every trial. They are computed once, and stored on the
device of the edited model's distributions if memory allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.devices.memory import cache_device
from excise.devices.transfers import float64_device
from excise.engine.assignment import Assignment
from excise.engine.distributions import distributions
from excise.engine.prefill import Tokens
from excise.scorers.divergence import Reduce, comparisons, kl_divergence


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, prompts: Sequence[Tokens], limit: int, assignment: Assignment
) -> Tensor:
    """Log-probabilities of the first answer token: [prompt, vocabulary], float32.

    They lie on the device of the model's logits, or on the host if they are too large for that device or the
    device lacks float64. limit: prompts that run at a time. Raises TrialError if a logit is not finite.
    """
    result: Tensor | None = None
    for group in distributions(model, prompts, limit, assignment=assignment):
        found = group.log_probabilities[:, -1]
        if result is None:
            size = len(prompts) * found[0].numel() * found.element_size()
            place = cache_device(size, float64_device(found.device))
            result = found.new_empty(len(prompts), found.shape[1], device=place)
        result[list(group.rows)] = found.to(result.device)
    if result is None:
        raise ValueError("no prompts")
    return result


def compared(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    original: Tensor,
    limit: int,
    assignment: Assignment,
    reduces: Sequence[Reduce] = (kl_divergence,),
) -> list[tuple[float, ...]]:
    """Comparisons of the first answer token with the original model: for each, a figure for each prompt.

    original: `log_probabilities` of the original model. Raises TrialError if a logit is not finite.
    """
    groups = distributions(model, prompts, limit, assignment=assignment, checked=False)
    pairs = ((original[list(group.rows)].unsqueeze(1), group) for group in groups)
    return [tuple(map(float, found)) for found in comparisons(pairs, reduces)]
