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
from excise.engine.answers import NO_TOKEN, Asked, Row, fail_without_numbers, largest
from excise.engine.assignment import Announce
from excise.engine.capability import decodes_batches, decodes_from_cache
from excise.engine.generation import following
from excise.engine.prefill import last_logits


class _Group:
    """A group while it is decoded. open: the places in it whose rows are not done."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self.open = tuple(rows), list(range(len(rows)))

    @property
    def open_rows(self) -> list[Row]:
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
        fail_without_numbers(self.open_rows, newest)
        done = [row.accept(token) for row, token in zip(self.open_rows, newest, strict=True)]
        staying = [index for index, ended in enumerate(done) if not ended]
        self.open = [self.open[index] for index in staying]
        return staying


class _Watch(LogitsProcessor):  # type: ignore[misc]
    """Changes nothing, and notes which open rows' logits are numbers: [row] bool, on their device."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self.numbers = torch.ones(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.numbers = torch.isfinite(scores[self._group.open].amax(-1))
        return scores


class _Collect(StoppingCriteria):  # type: ignore[misc]
    """Hands each new token to its row's answer, and says which rows are done.

    What `watch` saw comes to the host together with the tokens. `generate` lets a row that is done go on
    beside the others; what it still says is not collected.
    """

    def __init__(self, group: _Group, watch: _Watch) -> None:
        self._group, self._watch = group, watch

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        newest = input_ids[self._group.open, -1]
        self._group.collect(newest.masked_fill(~self._watch.numbers, NO_TOKEN).tolist())
        done = torch.ones(len(input_ids), dtype=torch.bool)
        done[self._group.open] = False
        return done.to(input_ids.device)


class PlainPool:
    """See `Pool`. A step takes one group of rows to their end; all who wait by then may be in it."""

    def __init__(self, model: PreTrainedModel, limit: int, announce: Announce) -> None:
        self._model, self._announce = model, announce
        self._limit = limit if decodes_batches(model) else 1
        self._guests: list[Asked] = []

    def ready(self, prompts: int) -> bool:
        """See `Pool`. Those who are asked together share groups, so everybody may come."""
        return True

    def add(self, asked: Asked) -> None:
        """See `Pool`."""
        self._guests.append(asked)

    @torch.inference_mode()
    def step(self) -> None:
        """Take the group of the most urgent row, rows of one length, to its end."""
        self._guests = [asked for asked in self._guests if not asked.done]
        waiting = [Row(asked, row) for asked in self._guests for row in asked.waiting]
        if not waiting:
            return
        waiting.sort(key=Row.urgency, reverse=True)
        length = len(waiting[0].prompt)
        rows = [row for row in waiting if len(row.prompt) == length][: self._limit]
        started = time.perf_counter()
        for row in rows:
            row.asked.begin([row.index])
        ids = torch.tensor([list(row.prompt) for row in rows], device=input_device(self._model))
        group = _Group(rows)
        # A lone token is taken by some (recurrent_gemma, rwkv) for the next one of the sequence before.
        if decodes_from_cache(self._model) and ids.shape[1] > 1:
            self._announce(group.candidates)
            _generate(self._model, ids, group, max(row.asked.max_new_tokens for row in rows))
        else:
            _recompute(self._model, ids, group, self._announce)
        for row in rows:
            row.asked.seconds += (time.perf_counter() - started) / len(rows)


def _generate(model: PreTrainedModel, ids: Tensor, group: _Group, max_new_tokens: int) -> None:
    ids = ids.to(generation_device(model))
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens)
    watch = _Watch(group)
    # The slots know nothing of penalties and forbidden tokens, and a comparison of models should compare what
    # they say, not what was done to it. End tokens are left out too: Asked knows them.
    with following(model, settings):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([_Collect(group, watch)]),
        )


def _recompute(model: PreTrainedModel, ids: Tensor, group: _Group, announce: Announce) -> None:
    while group.open:
        announce(group.candidates)
        tokens = largest(last_logits(model, ids)[:, -1]).to(ids.device)
        ids = torch.cat([ids, tokens.unsqueeze(1)], dim=1)
        ids = ids[group.collect(tokens.tolist())]
