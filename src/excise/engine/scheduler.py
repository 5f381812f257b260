"""Decoding in a fixed number of slots: no padding steps, no waiting.

Prompts run candidate by candidate, each behind its own common beginning; answers decode all together, each
row with its own candidate's edit. A row that is done gives its slot to one that waits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from excise.devices.device import input_device
from excise.engine.answers import Request, TokenSequence, fail_not_finite, greedy_tokens
from excise.engine.assignment import AssignRows
from excise.engine.prefill import (
    Prefix,
    common_prefix_length,
    length_groups,
    padding_slack,
    run_group,
    run_prefix,
)
from excise.engine.slots import SlotCache
from excise.errors import TrialError


@dataclass
class _Admission:
    """Somebody who is asked, and the beginning of his prompts, once it has run."""

    request: Request
    prefix: Prefix | None = None
    slack: int = 0


def _keep_rows(cache: DynamicCache, rows: Sequence[int]) -> None:
    """Let go of all other rows. Layers may lie on several devices: the indices go to each of them once."""
    indices: dict[torch.device, Tensor] = {}
    for layer in cache.layers:
        device = layer.keys.device
        if device not in indices:
            indices[device] = torch.tensor(rows, device=device)
        layer.batch_select_indices(indices[device])


class SlotScheduler:
    """See `Scheduler`. rows: those being decoded, in slot order."""

    def __init__(
        self, model: PreTrainedModel, slots: int, longest: int, assign_rows: AssignRows
    ) -> None:
        layers = model.config.get_text_config().num_hidden_layers
        self._model, self._assign_rows = model, assign_rows
        self._cache = SlotCache(layers, slots, longest)
        self._requests: list[_Admission] = []
        self.rows: list[TokenSequence] = []

    def ready(self, prompts: int) -> bool:
        """See `Scheduler`."""
        return self._few_enough(prompts) and not any(
            admission.request.waiting for admission in self._requests
        )

    def add(self, request: Request) -> None:
        """See `Scheduler`."""
        self._requests.append(_Admission(request))

    @torch.inference_mode()
    def step(self) -> None:
        """Run prompts for which there are slots, and decode one token of every row."""
        self._requests = [admission for admission in self._requests if not admission.request.done]
        for admission in self._requests:
            waiting = admission.request.waiting
            if waiting and self._few_enough(len(waiting)):
                self._admit(admission, waiting[: self._cache.free])
        if self.rows:
            self._decode()

    def _few_enough(self, waiting: int) -> bool:
        """True if new rows should be run: a few slots are left to gather before.

        A prompt alone costs almost as much as eight together.
        """
        return not self.rows or self._cache.free >= min(max(1, self._cache.slots // 4), waiting)

    def _admit(self, admission: _Admission, rows: Sequence[int]) -> None:
        request, started = admission.request, time.perf_counter()
        try:
            if admission.prefix is None:
                beginning = request.prompts[0][: common_prefix_length(request.prompts)]
                admission.prefix = run_prefix(self._model, beginning, request.assignment)
                admission.slack = padding_slack(self._model, request.prompts, admission.prefix)
            for group in length_groups(request.prompts, rows, self._cache.slots, admission.slack):
                self._admit_group(request, group, admission.prefix)
        except TrialError as error:
            request.fail(error)
        request.seconds += time.perf_counter() - started

    def _admit_group(self, request: Request, rows: Sequence[int], prefix: Prefix) -> None:
        group = run_group(
            self._model, request.prompts, rows, prefix, assignment=request.assignment, checked=False
        )
        request.begin(rows)
        tokens = greedy_tokens(group.logits[:, -1]).tolist()
        fail_not_finite([TokenSequence(request, row) for row in rows], tokens)
        staying = [
            place
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if not request.accept(row, token)
        ]
        if not staying:
            return
        assert group.cache is not None, "slots take over a cache"
        if len(staying) < len(rows):
            _keep_rows(group.cache, staying)
        stayed = [rows[place] for place in staying]
        lengths = [len(request.prompts[row]) for row in stayed]
        self._cache.admit(group.cache, lengths, prefix.length)
        self.rows += [TokenSequence(request, row) for row in stayed]

    def _decode(self) -> None:
        started = time.perf_counter()
        newest = torch.tensor(
            [[row.request.tokens[row.index][-1]] for row in self.rows],
            device=input_device(self._model),
        )
        self._assign_rows([row.candidate for row in self.rows])
        mask, positions = self._cache.prepare_step(newest.device)
        logits: Tensor = self._model(
            newest, attention_mask=mask, position_ids=positions, past_key_values=self._cache
        ).logits[:, -1]
        tokens = greedy_tokens(logits).tolist()
        fail_not_finite(self.rows, tokens)
        share = (time.perf_counter() - started) / len(self.rows)
        leaving: list[int] = []
        for slot, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            row.request.seconds += share
            if row.accept(token):
                leaving.append(slot)
        for source, target in self._cache.release(leaving):
            self.rows[target] = self.rows[source]
        del self.rows[len(self.rows) - len(leaving) :]
