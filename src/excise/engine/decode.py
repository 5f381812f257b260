"""Greedy decoding of many prompts in a fixed number of slots: no padding steps, no waiting.

Equal to `model.generate(do_sample=False)` token for token (float32), where the generation configuration
asks for nothing but end tokens: penalties, forced and forbidden tokens are not followed. A row leaves the
batch as soon as it has ended or the referee says that nothing it could still say matters; waiting prompts
take its place. Rows of several candidates may decode together, each with its own edit. Models that slots
are not exact for are decoded by the plain path, to the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.engine import plain
from excise.engine.answers import Answers, Referee, end_tokens
from excise.engine.assignment import ALONE, Assignment
from excise.engine.capability import slots_are_exact
from excise.engine.device import input_device
from excise.engine.prefill import (
    Prefix,
    Tokens,
    common_prefix_length,
    length_groups,
    padding_slack,
    require_numbers,
    run_group,
    run_prefix,
)
from excise.engine.slots import SlotCache


@dataclass
class _Batch:
    """The rows being decoded, in slot order."""

    cache: SlotCache
    assignment: Assignment
    rows: list[int] = field(default_factory=list)


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    slots: int,
    referee: Referee | None = None,
    assignment: Assignment = ALONE,
) -> list[list[int]]:
    """The greedy answer to each prompt, as token ids, the end-of-turn token included.

    slots: rows decoded at a time. referee: says which rows are worth going on with, by default all; a row
    that was never begun has an empty answer. assignment: whose each prompt is. The token is the largest
    logit's, whatever penalties the model's generation configuration asks for. Raises TrialError if a logit
    is not a number.
    """
    referee = referee or Referee()
    answers = Answers(len(prompts), end_tokens(model), max_new_tokens, referee)
    if not prompts:
        return answers.tokens
    slots = min(slots, len(prompts))
    if not slots_are_exact(model):
        plain.decode(
            model,
            prompts,
            answers,
            max_new_tokens=max_new_tokens,
            limit=slots,
            assignment=assignment,
        )
        return answers.tokens
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    layers = model.config.get_text_config().num_hidden_layers
    batch = _Batch(SlotCache(layers, slots, longest), assignment)
    prefix = run_prefix(model, prompts[0][: common_prefix_length(prompts)], assignment)
    slack = padding_slack(model, prompts, prefix)
    # The urgent ones first. Of like urgency the longest: later rows then fit into the batch's window.
    waiting = sorted(
        range(len(prompts)), key=lambda row: (-referee.urgency(row), -len(prompts[row]))
    )

    while waiting or batch.rows:
        waiting = [row for row in waiting if referee.wanted(row)]
        # A few slots are left to gather before new rows are run: a prompt alone costs almost as much
        # as eight together.
        if waiting and (
            not batch.rows or batch.cache.free >= min(max(1, slots // 4), len(waiting))
        ):
            arriving, waiting = waiting[: batch.cache.free], waiting[batch.cache.free :]
            for rows in length_groups(prompts, arriving, slots, slack):
                _admit(model, prompts, rows, prefix, batch, answers)
        if batch.rows:
            _step(model, batch, answers)
    return answers.tokens


def _admit(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    rows: Sequence[int],
    prefix: Prefix,
    batch: _Batch,
    answers: Answers,
) -> None:
    group = run_group(model, prompts, rows, prefix, assignment=batch.assignment)
    done = answers.accept(group.logits[:, -1].argmax(-1).tolist(), rows)
    staying = [index for index, ended in enumerate(done) if not ended]
    if not staying:
        return
    assert group.cache is not None, "slots take over a cache"
    if len(staying) < len(rows):
        group.cache.batch_select_indices(torch.tensor(staying, device=group.logits.device))
    stayed = [rows[index] for index in staying]
    batch.cache.admit(group.cache, [len(prompts[row]) for row in stayed], prefix.length)
    batch.rows += stayed


def _step(
    model: PreTrainedModel,
    batch: _Batch,
    answers: Answers,
) -> None:
    newest = torch.tensor(
        [[answers.tokens[row][-1]] for row in batch.rows], device=input_device(model)
    )
    batch.assignment.before_pass(batch.rows)
    mask, positions = batch.cache.prepare_step(newest.device)
    logits: Tensor = model(
        newest, attention_mask=mask, position_ids=positions, past_key_values=batch.cache
    ).logits[:, -1]
    # The largest logit is no number if any of them is none, or infinite; looking at it alone is cheaper.
    largest, tokens = logits.max(-1)
    require_numbers(largest)
    done = answers.accept(tokens.tolist(), batch.rows)
    leaving = [slot for slot, ended in enumerate(done) if ended]
    for source, target in batch.cache.release(leaving):
        batch.rows[target] = batch.rows[source]
    del batch.rows[len(batch.rows) - len(leaving) :]
