"""Decoding in a fixed number of slots, without steps for finished sequences.

A request holds the prompts of one candidate. Their common prefix runs once, before the rest of each prompt.
The answers of all requests decode together, each sequence with the edit of its candidate. When a sequence is
finished, a waiting prompt takes its slot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from excise.devices.memory import input_device
from excise.engine.answers import Request, TokenSequence, fail_not_finite, greedy_tokens
from excise.engine.assignment import AssignRows
from excise.engine.prefill import Prefill
from excise.engine.slots import SlotCache
from excise.errors import TrialError


class Scheduler(Protocol):
    """Decodes the sequences of all its requests together."""

    def ready(self, prompts: int) -> bool:
        """True if a new request of `prompts` prompts would start at once and delay no other request."""

    def add(self, request: Request) -> None:
        """Add a request."""

    def step(self) -> None:
        """Admit waiting prompts and decode. Does nothing if all requests are done."""


def _keep_rows(cache: DynamicCache, rows: Sequence[int]) -> None:
    """Drop all other rows. Layers may be on several devices; the indices are copied to each device once."""
    devices = {layer.keys.device for layer in cache.layers}
    indices = {device: torch.tensor(rows, device=device) for device in devices}
    for layer in cache.layers:
        layer.batch_select_indices(indices[layer.keys.device])


class SlotScheduler:
    """See `Scheduler`. running: the sequences being decoded, in slot order."""

    def __init__(
        self, model: PreTrainedModel, slots: int, longest: int, assign_rows: AssignRows
    ) -> None:
        layers = model.config.get_text_config().num_hidden_layers
        self._model, self._assign_rows = model, assign_rows
        self._cache = SlotCache(layers, slots, longest)
        # None until the common prefix of the request's prompts has run.
        self._requests: dict[Request, Prefill | None] = {}
        self.running: list[TokenSequence] = []

    def ready(self, prompts: int) -> bool:
        """See `Scheduler`."""
        return self._has_room(prompts) and not any(request.waiting for request in self._requests)

    def add(self, request: Request) -> None:
        """See `Scheduler`."""
        self._requests[request] = None

    @torch.inference_mode()
    def step(self) -> None:
        """Run waiting prompts in free slots, then decode one token of every sequence."""
        self._requests = {each: run for each, run in self._requests.items() if not each.done}
        for request in self._requests:
            waiting = request.waiting
            if waiting and self._has_room(len(waiting)):
                self._admit(request, waiting[: self._cache.free])
        if self.running:
            self._decode()

    def _has_room(self, waiting: int) -> bool:
        """True if this many waiting prompts should run now.

        Prompts wait until a quarter of the slots is free, or one slot for each prompt, or no sequence is
        running: a pass over one prompt costs almost as much as a pass over eight.
        """
        few = min(max(1, self._cache.slots // 4), waiting)
        return not self.running or self._cache.free >= few

    def _admit(self, request: Request, indices: Sequence[int]) -> None:
        started, prefill = time.perf_counter(), self._requests[request]
        try:
            if prefill is None:
                prefill = Prefill.start(self._model, request.prompts, request.assignment)
                self._requests[request] = prefill
            for group in prefill.groups(self._cache.slots, indices):
                self._admit_group(request, prefill, group)
        except TrialError as error:
            request.fail(error)
        request.seconds += time.perf_counter() - started

    def _admit_group(self, request: Request, prefill: Prefill, indices: Sequence[int]) -> None:
        group = prefill.run(indices, checked=False)
        request.admit(indices)
        sequences = [TokenSequence(request, index) for index in indices]
        tokens = greedy_tokens(group.logits[:, -1]).tolist()
        fail_not_finite(sequences, tokens)
        staying = [
            row
            for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True))
            if not sequence.append(token)
        ]
        if not staying:
            return
        assert group.cache is not None, "slots take over a cache"
        if len(staying) < len(sequences):
            _keep_rows(group.cache, staying)
        stayed = [sequences[row] for row in staying]
        lengths = [len(sequence.prompt) for sequence in stayed]
        self._cache.admit(group.cache, lengths, prefill.prefix.length)
        self.running += stayed

    def _decode(self) -> None:
        started = time.perf_counter()
        last = [[each.request.tokens[each.index][-1]] for each in self.running]
        newest = torch.tensor(last, device=input_device(self._model))
        self._assign_rows([sequence.candidate for sequence in self.running])
        mask, positions = self._cache.prepare_step(newest.device)
        logits: Tensor = self._model(
            newest, attention_mask=mask, position_ids=positions, past_key_values=self._cache
        ).logits[:, -1]
        tokens = greedy_tokens(logits).tolist()
        fail_not_finite(self.running, tokens)
        share = (time.perf_counter() - started) / len(self.running)
        finished: list[int] = []
        for slot, (sequence, token) in enumerate(zip(self.running, tokens, strict=True)):
            sequence.request.seconds += share
            if sequence.append(token):
                finished.append(slot)
        for source, target in self._cache.release(finished):
            self.running[target] = self.running[source]
        del self.running[len(self.running) - len(finished) :]
