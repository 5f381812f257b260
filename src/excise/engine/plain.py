"""Greedy decoding for every causal model: groups of equal length through the model's own `generate`.

No padding, no shared beginning, and caches that transformers makes and owns. Slower than slots, because
a group lasts as long as its longest answer, and exact whatever a model keeps between tokens. Where what
`generate` keeps is not exact, nothing is kept: the whole sequence is run again for each token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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

from excise.devices.device import generation_device, input_device
from excise.engine.answers import NO_TOKEN, Request, TokenSequence, fail_not_finite, greedy_tokens
from excise.engine.assignment import AssignRows
from excise.engine.capability import decodes_batches, decodes_from_cache
from excise.engine.generation import following
from excise.engine.prefill import last_logits


class _Group:
    """A group while it is decoded. open: the places in it whose rows are not done."""

    def __init__(self, rows: Sequence[TokenSequence]) -> None:
        self._rows, self.open = tuple(rows), list(range(len(rows)))

    @property
    def open_rows(self) -> list[TokenSequence]:
        """The rows that are not done."""
        return [self._rows[place] for place in self.open]

    @property
    def candidates(self) -> list[int]:
        """The candidate of each of them."""
        return [row.candidate for row in self.open_rows]

    def collect(self, newest: Sequence[int]) -> list[int]:
        """Hand each open row its token; returns which of `newest` belong to rows that stay open.

        Fails those with a token that stands for logits that are not numbers.
        """
        fail_not_finite(self.open_rows, newest)
        done = [row.accept(token) for row, token in zip(self.open_rows, newest, strict=True)]
        staying = [index for index, ended in enumerate(done) if not ended]
        self.open = [self.open[index] for index in staying]
        return staying


class _FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Changes nothing, and notes which open rows' logits are numbers: [row] bool, on their device."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self.numbers = torch.ones(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.numbers = torch.isfinite(scores[self._group.open].amax(-1))
        return scores


class _Collect(StoppingCriteria):  # type: ignore[misc]
    """Hands each new token to its row's answer, and says which rows are done.

    What `finite` saw comes to the host together with the tokens. `generate` lets a row that is done go on
    beside the others; what it still says is not collected.
    """

    def __init__(self, group: _Group, finite: _FiniteLogits) -> None:
        self._group, self._finite = group, finite

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        newest = input_ids[self._group.open, -1]
        self._group.collect(newest.masked_fill(~self._finite.numbers, NO_TOKEN).tolist())
        done = torch.ones(len(input_ids), dtype=torch.bool)
        done[self._group.open] = False
        return done.to(input_ids.device)


class PlainScheduler:
    """See `Scheduler`. A step takes one group of rows to their end; all who wait by then may be in it."""

    def __init__(self, model: PreTrainedModel, limit: int, assign_rows: AssignRows) -> None:
        self._model, self._assign_rows = model, assign_rows
        self._limit = limit if decodes_batches(model) else 1
        self._requests: list[Request] = []

    def ready(self, prompts: int) -> bool:
        """See `Scheduler`. Those who are asked together share groups, so everybody may come."""
        return True

    def add(self, request: Request) -> None:
        """See `Scheduler`."""
        self._requests.append(request)

    @torch.inference_mode()
    def step(self) -> None:
        """Take the group of the most urgent row, rows of one length, to its end."""
        self._requests = [request for request in self._requests if not request.done]
        waiting = [
            TokenSequence(request, row) for request in self._requests for row in request.waiting
        ]
        if not waiting:
            return
        waiting.sort(key=TokenSequence.priority, reverse=True)
        length = len(waiting[0].prompt)
        rows = [row for row in waiting if len(row.prompt) == length][: self._limit]
        started = time.perf_counter()
        for row in rows:
            row.request.begin([row.index])
        ids = torch.tensor([list(row.prompt) for row in rows], device=input_device(self._model))
        group = _Group(rows)
        # A lone token is taken by some (recurrent_gemma, rwkv) for the next one of the sequence before.
        if decodes_from_cache(self._model) and ids.shape[1] > 1:
            self._assign_rows(group.candidates)
            _generate(self._model, ids, group, max(row.request.max_new_tokens for row in rows))
        else:
            _recompute(self._model, ids, group, self._assign_rows)
        for row in rows:
            row.request.seconds += (time.perf_counter() - started) / len(rows)


def _generate(model: PreTrainedModel, ids: Tensor, group: _Group, max_new_tokens: int) -> None:
    ids = ids.to(generation_device(model))
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens)
    finite = _FiniteLogits(group)
    # The slots know nothing of penalties and forbidden tokens, and a comparison of models should compare what
    # they say, not what was done to it. End tokens are left out too: Request knows them.
    with following(model, settings):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([finite]),
            stopping_criteria=StoppingCriteriaList([_Collect(group, finite)]),
        )


def _recompute(model: PreTrainedModel, ids: Tensor, group: _Group, assign_rows: AssignRows) -> None:
    while group.open:
        assign_rows(group.candidates)
        tokens = greedy_tokens(last_logits(model, ids)[:, -1]).to(ids.device)
        ids = torch.cat([ids, tokens.unsqueeze(1)], dim=1)
        ids = ids[group.collect(tokens.tolist())]
