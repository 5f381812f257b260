"""Greedy decoding of many prompts in a fixed number of slots: no padding steps, no waiting.

Equal to `model.generate(do_sample=False)` token for token (float32). A row leaves the batch as soon as
it has ended or `decided` says that nothing it could still say matters; waiting prompts take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

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

Decided = Callable[[list[int]], bool]


def never(answer: list[int]) -> bool:
    """The `decided` that lets every answer run to its end."""
    return False


@dataclass
class _Batch:
    """The rows being decoded, in slot order."""

    cache: SlotCache
    rows: list[int] = field(default_factory=list)


@torch.inference_mode()
def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    slots: int,
    decided: Decided = never,
) -> list[list[int]]:
    """The greedy answer to each prompt, as token ids, the end-of-turn token included.

    slots: rows decoded at a time. decided: called with a row's answer so far after each token; True
    ends the row. Raises TrialError if a logit is not a number.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    ends = end_tokens(model)
    slots = min(slots, len(prompts))
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    layers = model.config.get_text_config().num_hidden_layers
    batch = _Batch(SlotCache(layers, slots, longest))
    prefix = run_prefix(model, prompts[0][: common_prefix_length(prompts)])
    slack = padding_slack(model, prompts, prefix)
    # Longest first: the batch takes its greatest size at once, and later rows fit into its window.
    waiting = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))

    def accept(tokens: Sequence[int], rows: Sequence[int]) -> list[bool]:
        """Append a token to each row's answer; True for the rows that are done."""
        done: list[bool] = []
        for row, token in zip(rows, tokens, strict=True):
            answer = answers[row]
            answer.append(token)
            done.append(token in ends or len(answer) >= max_new_tokens or decided(answer))
        return done

    while waiting or batch.rows:
        # A few slots are left to gather before new rows are run: a prompt alone costs almost as much
        # as eight together.
        if waiting and (
            not batch.rows or batch.cache.free >= min(max(1, slots // 4), len(waiting))
        ):
            arriving, waiting = waiting[: batch.cache.free], waiting[batch.cache.free :]
            for rows in length_groups(prompts, arriving, slots, slack):
                _admit(model, prompts, rows, prefix, batch, accept)
        if batch.rows:
            _step(model, answers, batch, accept)
    return answers


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer, as `generate` takes them from the generation configuration."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


def _admit(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    rows: Sequence[int],
    prefix: Prefix,
    batch: _Batch,
    accept: Callable[[Sequence[int], Sequence[int]], list[bool]],
) -> None:
    group = run_group(model, prompts, rows, prefix)
    done = accept(group.logits.argmax(-1).tolist(), rows)
    staying = [index for index, ended in enumerate(done) if not ended]
    if not staying:
        return
    if len(staying) < len(rows):
        group.cache.batch_select_indices(torch.tensor(staying, device=group.logits.device))
    stayed = [rows[index] for index in staying]
    batch.cache.admit(group.cache, [len(prompts[row]) for row in stayed], prefix.length)
    batch.rows += stayed


def _step(
    model: PreTrainedModel,
    answers: Sequence[Sequence[int]],
    batch: _Batch,
    accept: Callable[[Sequence[int], Sequence[int]], list[bool]],
) -> None:
    newest = torch.tensor([[answers[row][-1]] for row in batch.rows], device=model.device)
    mask, positions = batch.cache.prepare_step(newest.device)
    logits: Tensor = model(
        newest, attention_mask=mask, position_ids=positions, past_key_values=batch.cache
    ).logits[:, -1]
    # The largest logit is no number if any of them is none, or infinite; looking at it alone is cheaper.
    largest, tokens = logits.max(-1)
    require_numbers(largest)
    done = accept(tokens.tolist(), batch.rows)
    leaving = [slot for slot, ended in enumerate(done) if ended]
    for source, target in batch.cache.release(leaving):
        batch.rows[target] = batch.rows[source]
    del batch.rows[len(batch.rows) - len(leaving) :]
