"""A model's next-token distributions: of the first answer token, or along given answers (teacher forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.prefill import Prefill, Tokens


@dataclass(frozen=True)
class Distributions:
    """Next-token distributions of prompts that ran together.

    rows: indices of the prompts. log_probabilities: [row, token, vocabulary], float32, of each answer token
    given all tokens before it. lengths: tokens of each answer. Answers are right-aligned; the columns before
    a shorter answer belong to its prompt.
    """

    rows: tuple[int, ...]
    log_probabilities: Tensor
    lengths: tuple[int, ...]


@torch.inference_mode()
def distributions(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    limit: int,
    *,
    answers: Sequence[Tokens] | None = None,
    assignment: Assignment = ONE_CANDIDATE,
    checked: bool = True,
) -> Iterator[Distributions]:
    """The distributions over each token of `answers`, in groups of at most `limit` prompts, longest first.

    answers: one for each prompt, not empty; by default the first answer token's distribution alone.
    checked: see `Prefill.run`.
    """
    lengths = [1] * len(prompts) if answers is None else list(map(len, answers))
    sequences = [
        [*prompt, *answer[:-1]]
        for prompt, answer in zip(prompts, answers or [()] * len(prompts), strict=True)
    ]
    if not sequences:
        return
    # The prefix ends within the prompts: the logits of every answer token are needed.
    prefill = Prefill.start(model, sequences, assignment, beginnings=prompts)
    for rows in prefill.groups(limit):
        own = tuple(lengths[row] for row in rows)
        logits = prefill.run(rows, max(own), cached=False, checked=checked).logits
        yield Distributions(rows, logits.to(torch.float32).log_softmax(-1), own)
