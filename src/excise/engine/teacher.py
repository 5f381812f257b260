"""What a model makes of answers that are given: teacher-forced log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.prefill import (
    Tokens,
    common_prefix_length,
    length_groups,
    padding_slack,
    run_group,
    run_prefix,
)


@dataclass(frozen=True)
class Forced:
    """Answers that ran together.

    rows: their indices. log_probabilities: [row, token, vocabulary], float32, of each answer token given
    all before it. lengths: tokens of each answer; answers are right-aligned, what stands before them is not
    theirs.
    """

    rows: tuple[int, ...]
    log_probabilities: Tensor
    lengths: tuple[int, ...]


def forced_groups(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    limit: int,
    *,
    checked: bool = True,
) -> Iterator[Forced]:
    """The model's distributions over each token of `answers`, none of them empty, in groups of `limit`.

    checked: see `run_group`.
    """
    sequences = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    prefix = run_prefix(model, prompts[0][: common_prefix_length(prompts)])
    slack = padding_slack(model, sequences, prefix)
    for rows in length_groups(sequences, range(len(sequences)), limit, slack):
        lengths = tuple(len(answers[row]) for row in rows)
        group = run_group(
            model, sequences, rows, prefix, max(lengths), cached=False, checked=checked
        )
        yield Forced(rows, group.logits.to(torch.float32).log_softmax(-1), lengths)
