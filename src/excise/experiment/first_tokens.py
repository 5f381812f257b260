"""Distributions of the first answer token: those of the original model, and how far others are from them.

The original's are the same in every trial. They are worked out once, and kept where the changed model's come
to lie, if memory allows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.devices.doubles import doubles_device
from excise.devices.memory import place_for
from excise.engine.assignment import Assignment
from excise.engine.numbers import are_numbers, gathered
from excise.engine.prefill import Tokens, run_all
from excise.scorers.divergence import kl_divergence


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, prompts: Sequence[Tokens], limit: int, assignment: Assignment
) -> Tensor:
    """Log-probabilities of the first answer token: [prompt, vocabulary], float32.

    They lie where the model's logits do, or on the host if they are too large for that device, or it knows no
    float64.
    limit: prompts that run at a time. Raises TrialError if a logit is not a number.
    """
    result: Tensor | None = None
    for group in run_all(model, prompts, limit, assignment):
        found = _log_probabilities(group.logits)
        if result is None:
            size = len(prompts) * found[0].numel() * found.element_size()
            place = place_for(size, doubles_device(found.device))
            result = found.new_empty(len(prompts), found.shape[1], device=place)
        result[list(group.rows)] = found.to(result.device)
    if result is None:
        raise ValueError("no prompts")
    return result


@torch.inference_mode()
def divergences(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    original: Tensor,
    limit: int,
    assignment: Assignment,
) -> list[float]:
    """KL(original ‖ model) of the first answer token for each prompt, nats.

    original: `log_probabilities` of the original model. A number for each prompt is all that leaves the
    device, when the last of them has run. Raises TrialError if a logit is not a number.
    """
    rows: list[int] = []
    values: list[Tensor] = []
    numbers: list[Tensor] = []
    for group in run_all(model, prompts, limit, assignment, checked=False):
        # Only a group's distributions are held at a time: whole vocabularies are large.
        found = _log_probabilities(group.logits)
        rows += group.rows
        values.append(kl_divergence(original[list(group.rows)], found))
        numbers.append(are_numbers(group.logits))
    by_prompt = dict(zip(rows, torch.cat(gathered(values, numbers)).tolist(), strict=True))
    return [by_prompt[row] for row in range(len(prompts))]


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits[:, -1].to(torch.float32).log_softmax(-1)
