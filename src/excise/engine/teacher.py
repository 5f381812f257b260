"""What a model makes of answers that are given: teacher-forced logits, with gradients if asked for.

Nothing here is in inference mode: under `torch.no_grad()` the same functions give plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.devices.device import input_device
from excise.engine.prefill import (
    Group,
    Prefix,
    Tokens,
    common_prefix_length,
    last_logits,
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
        yield forced_group(model, sequences, answers, rows, prefix, checked=checked)


def forced_group(
    model: PreTrainedModel,
    sequences: Sequence[Tokens],
    answers: Sequence[Tokens],
    rows: Sequence[int],
    prefix: Prefix,
    *,
    checked: bool = True,
) -> Forced:
    """One group of `forced_groups`; sequences are prompts with their answers but for the last token."""
    lengths = [len(answers[row]) for row in rows]
    group = run_group(model, sequences, rows, prefix, max(lengths), cached=False, checked=checked)
    return Forced(
        tuple(rows),
        group.logits.to(torch.float32).log_softmax(-1),
        tuple(lengths),
    )


def branched(
    model: PreTrainedModel, prompts: Sequence[Tokens], group: Group, stems: Sequence[Tokens]
) -> Tensor:
    """Log-probabilities behind every token of every stem, each stem said to every prompt of `group`.

    Returns [row, stem, token, vocabulary], float32; stems are padded behind to the longest, and what stands
    at their padding means nothing. The group's cache is used up.
    """
    longest = max(map(len, stems))
    ids = torch.tensor(
        [[*stem, *[stem[-1]] * (longest - len(stem))] for stem in stems],
        device=input_device(model),
    )
    count, rows = len(stems), len(group.rows)
    if group.cache is None or group.present is None:
        pieces = [
            last_logits(
                model,
                torch.cat([ids.new_tensor([list(prompts[row])]).expand(count, -1), ids], 1),
                longest,
            )
            for row in group.rows
        ]
        logits = torch.stack(pieces)
    else:
        group.cache.batch_repeat_interleave(count)
        lengths = torch.tensor([len(prompts[row]) for row in group.rows])
        present = group.present.repeat_interleave(count, 0)
        mask = torch.cat([present, present.new_ones(rows * count, longest)], 1)
        positions = lengths.repeat_interleave(count).unsqueeze(1) + torch.arange(longest)
        logits = model(
            ids.repeat(rows, 1),
            past_key_values=group.cache,
            attention_mask=mask.to(ids.device),
            position_ids=positions.to(ids.device),
        ).logits.view(rows, count, longest, -1)
    return logits.to(torch.float32).log_softmax(-1)
