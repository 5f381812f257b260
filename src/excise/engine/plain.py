"""Greedy decoding for every causal model: groups of equal length through the model's own `generate`.

There is no padding and no shared prefix, and transformers makes and owns the caches. The plain path is exact
whatever a model keeps between tokens. It is slower than slots, because a group lasts as long as its longest
answer. If the cache of `generate` is not exact, the whole sequence runs again for each token.
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

from excise.devices.memory import generation_device, input_device
from excise.engine.answers import NO_TOKEN, Request, TokenSequence, fail_not_finite, greedy_tokens
from excise.engine.assignment import AssignRows
from excise.engine.capability import decodes_batches, decodes_from_cache
from excise.engine.generation import following
from excise.engine.prefill import last_logits


class _Group(LogitsProcessor):  # type: ignore[misc]
    """Sequences that decode together. As a processor of logits, it changes nothing.

    running: the rows of the group that are not finished. finite: which of them have finite logits, [row]
    bool, on their device.
    """

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences, self.running = tuple(sequences), list(range(len(sequences)))
        self.finite = torch.ones(0, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.finite = torch.isfinite(scores[self.running].amax(-1))
        return scores

    @property
    def candidates(self) -> list[int]:
        """The candidate of each running row."""
        return [self._sequences[row].candidate for row in self.running]

    def append(self, newest: Sequence[int]) -> list[int]:
        """Append a token to each running sequence; returns the indices into `newest` of those that go on.

        Ends the requests of sequences whose token is `NO_TOKEN`.
        """
        sequences = [self._sequences[row] for row in self.running]
        fail_not_finite(sequences, newest)
        finished = [
            sequence.append(token) for sequence, token in zip(sequences, newest, strict=True)
        ]
        staying = [index for index, ended in enumerate(finished) if not ended]
        self.running = [self.running[index] for index in staying]
        return staying


class _Collect(StoppingCriteria):  # type: ignore[misc]
    """Appends each new token to its sequence, and reports which rows are finished.

    The check of the logits comes to the host together with the tokens. `generate` lets a finished row go on
    beside the others; its further tokens are not collected.
    """

    def __init__(self, group: _Group) -> None:
        self._group = group

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        newest = input_ids[self._group.running, -1]
        self._group.append(newest.masked_fill(~self._group.finite, NO_TOKEN).tolist())
        done = torch.ones(len(input_ids), dtype=torch.bool)
        done[self._group.running] = False
        return done.to(input_ids.device)


class PlainScheduler:
    """See `Scheduler`. One step takes one group of sequences to their end; a group may mix requests."""

    def __init__(self, model: PreTrainedModel, limit: int, assign_rows: AssignRows) -> None:
        self._model, self._assign_rows = model, assign_rows
        self._limit = limit if decodes_batches(model) else 1
        self._requests: list[Request] = []

    def ready(self, prompts: int) -> bool:
        """See `Scheduler`. Requests share groups, so a new request can always start."""
        return True

    def add(self, request: Request) -> None:
        """See `Scheduler`."""
        self._requests.append(request)

    @torch.inference_mode()
    def step(self) -> None:
        """Take the sequence of highest priority, and others of the same length, to their end."""
        self._requests = [request for request in self._requests if not request.done]
        waiting = [
            TokenSequence(request, index) for request in self._requests for index in request.waiting
        ]
        if not waiting:
            return
        waiting.sort(key=TokenSequence.priority, reverse=True)
        length = len(waiting[0].prompt)
        admitted = [each for each in waiting if len(each.prompt) == length][: self._limit]
        started = time.perf_counter()
        for sequence in admitted:
            sequence.request.admit([sequence.index])
        prompts = [list(sequence.prompt) for sequence in admitted]
        ids = torch.tensor(prompts, device=input_device(self._model))
        group = _Group(admitted)
        # Some models (recurrent_gemma, rwkv) take a single token for the next one of the sequence before.
        if decodes_from_cache(self._model) and ids.shape[1] > 1:
            self._assign_rows(group.candidates)
            most = max(sequence.request.max_new_tokens for sequence in admitted)
            _generate(self._model, ids, group, most)
        else:
            _recompute(self._model, ids, group, self._assign_rows)
        for sequence in admitted:
            sequence.request.seconds += (time.perf_counter() - started) / len(admitted)


def _generate(model: PreTrainedModel, ids: Tensor, group: _Group, max_new_tokens: int) -> None:
    ids = ids.to(generation_device(model))
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens)
    # Slots ignore penalties and forbidden tokens, and a comparison of models should compare the models and
    # not their generation settings. End tokens are left out too: Request knows them.
    with following(model, settings):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([group]),
            stopping_criteria=StoppingCriteriaList([_Collect(group)]),
        )


def _recompute(model: PreTrainedModel, ids: Tensor, group: _Group, assign_rows: AssignRows) -> None:
    while group.running:
        assign_rows(group.candidates)
        tokens = greedy_tokens(last_logits(model, ids)[:, -1]).to(ids.device)
        ids = torch.cat([ids, tokens.unsqueeze(1)], dim=1)
        ids = ids[group.append(tokens.tolist())]
