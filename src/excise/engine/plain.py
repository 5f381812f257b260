"""Greedy decoding for every causal model: groups of equal length through the model's own `generate`.

No padding, no shared beginning, and caches that transformers makes and owns. Slower than slots, because
a group lasts as long as its longest answer, and exact whatever a model keeps between tokens. Where what
`generate` keeps is not exact, nothing is kept: the whole sequence is run again for each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from excise.engine.answers import Answers
from excise.engine.assignment import Assignment
from excise.engine.capability import decodes_batches, decodes_from_cache
from excise.engine.device import input_device
from excise.engine.prefill import Tokens, last_logits, length_groups, require_numbers


class _Group:
    """A group while it is decoded. open: the places in it whose rows are not done."""

    def __init__(self, answers: Answers, rows: Sequence[int]) -> None:
        self._answers, self._rows = answers, tuple(rows)
        self.open = list(range(len(rows)))

    @property
    def open_rows(self) -> list[int]:
        """The rows that are not done."""
        return [self._rows[place] for place in self.open]

    def collect(self, newest: Sequence[int]) -> list[int]:
        """Hand each open row its token; returns which of `newest` belong to rows that stay open."""
        done = self._answers.accept(newest, self.open_rows)
        staying = [index for index, ended in enumerate(done) if not ended]
        self.open = [self.open[index] for index in staying]
        return staying


class _Watch(LogitsProcessor):  # type: ignore[misc]
    """Raises TrialError where a logit of an open row is not a number; changes nothing."""

    def __init__(self, group: _Group) -> None:
        self._group = group

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        require_numbers(scores[self._group.open].amax(-1))
        return scores


class _Collect(StoppingCriteria):  # type: ignore[misc]
    """Hands each new token to its row's answer, and says which rows are done.

    `generate` lets a row that is done go on beside the others; what it still says is not collected.
    """

    def __init__(self, group: _Group) -> None:
        self._group = group

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        self._group.collect(input_ids[self._group.open, -1].tolist())
        done = torch.ones(len(input_ids), dtype=torch.bool)
        done[self._group.open] = False
        return done.to(input_ids.device)


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    answers: Answers,
    *,
    max_new_tokens: int,
    limit: int,
    assignment: Assignment,
) -> None:
    """Fill `answers` with the greedy answer to each prompt, at most `limit` rows at a time."""
    cached = decodes_from_cache(model)
    limit = limit if decodes_batches(model) else 1
    referee = answers.referee
    order = sorted(range(len(prompts)), key=referee.urgency, reverse=True)
    groups = length_groups(prompts, order, limit)
    # Rows of one length run together; of the groups, that with the most urgent row comes first.
    for planned in sorted(groups, key=lambda rows: -max(map(referee.urgency, rows))):
        rows = [row for row in planned if referee.wanted(row)]
        if not rows:
            continue
        ids = torch.tensor([list(prompts[row]) for row in rows], device=input_device(model))
        group = _Group(answers, rows)
        # A lone token is taken by some (recurrent_gemma, rwkv) for the next one of the sequence before.
        if cached and ids.shape[1] > 1:
            assignment.before_pass(rows)
            _generate(model, ids, group, max_new_tokens)
        else:
            _recompute(model, ids, group, assignment)


def _generate(model: PreTrainedModel, ids: Tensor, group: _Group, max_new_tokens: int) -> None:
    if model.device.type == "meta":
        # `generate` compares the ids' device with that of the first parameter, here an offloaded one, and
        # accepts the host beside any; accelerate's hooks move them from there.
        ids = ids.cpu()
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens)
    with _pure_argmax(model, settings):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Watch(group)]),
            stopping_criteria=StoppingCriteriaList([_Collect(group)]),
        )


def _recompute(model: PreTrainedModel, ids: Tensor, group: _Group, assignment: Assignment) -> None:
    while group.open:
        assignment.before_pass(group.open_rows)
        largest, tokens = last_logits(model, ids)[:, -1].max(-1)
        require_numbers(largest)
        ids = torch.cat([ids, tokens.to(ids.device).unsqueeze(1)], dim=1)
        ids = ids[group.collect(tokens.tolist())]


@contextmanager
def _pure_argmax(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Hide the model's own generation configuration.

    `generate` fills in from it whatever `settings` leaves open: repetition penalties, forced and
    forbidden tokens, least lengths. The slots know nothing of these, and a comparison of models should
    compare what they say, not what was done to it. End tokens are left out too: Answers knows them.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
