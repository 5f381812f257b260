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
from excise.engine.answers import Asked, Row, fail_without_numbers, largest
from excise.engine.assignment import Announce
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
class _Guest:
    """Somebody who is asked, and the beginning of his prompts, once it has run."""

    asked: Asked
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


class SlotPool:
    """See `Pool`. rows: those being decoded, in slot order."""

    def __init__(
        self, model: PreTrainedModel, slots: int, longest: int, announce: Announce
    ) -> None:
        layers = model.config.get_text_config().num_hidden_layers
        self._model, self._announce = model, announce
        self._cache = SlotCache(layers, slots, longest)
        self._guests: list[_Guest] = []
        self.rows: list[Row] = []

    def ready(self, prompts: int) -> bool:
        """See `Pool`."""
        return self._few_enough(prompts) and not any(guest.asked.waiting for guest in self._guests)

    def add(self, asked: Asked) -> None:
        """See `Pool`."""
        self._guests.append(_Guest(asked))

    @torch.inference_mode()
    def step(self) -> None:
        """Run prompts for which there are slots, and decode one token of every row."""
        self._guests = [guest for guest in self._guests if not guest.asked.done]
        for guest in self._guests:
            waiting = guest.asked.waiting
            if waiting and self._few_enough(len(waiting)):
                self._admit(guest, waiting[: self._cache.free])
        if self.rows:
            self._decode()

    def _few_enough(self, waiting: int) -> bool:
        """True if new rows should be run: a few slots are left to gather before.

        A prompt alone costs almost as much as eight together.
        """
        return not self.rows or self._cache.free >= min(max(1, self._cache.slots // 4), waiting)

    def _admit(self, guest: _Guest, rows: Sequence[int]) -> None:
        asked, started = guest.asked, time.perf_counter()
        try:
            if guest.prefix is None:
                beginning = asked.prompts[0][: common_prefix_length(asked.prompts)]
                guest.prefix = run_prefix(self._model, beginning, asked.assignment)
                guest.slack = padding_slack(self._model, asked.prompts, guest.prefix)
            for group in length_groups(asked.prompts, rows, self._cache.slots, guest.slack):
                self._admit_group(asked, group, guest.prefix)
        except TrialError as error:
            asked.fail(error)
        asked.seconds += time.perf_counter() - started

    def _admit_group(self, asked: Asked, rows: Sequence[int], prefix: Prefix) -> None:
        group = run_group(
            self._model, asked.prompts, rows, prefix, assignment=asked.assignment, checked=False
        )
        asked.begin(rows)
        tokens = largest(group.logits[:, -1]).tolist()
        fail_without_numbers([Row(asked, row) for row in rows], tokens)
        staying = [
            place
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if not asked.accept(row, token)
        ]
        if not staying:
            return
        assert group.cache is not None, "slots take over a cache"
        if len(staying) < len(rows):
            _keep_rows(group.cache, staying)
        stayed = [rows[place] for place in staying]
        lengths = [len(asked.prompts[row]) for row in stayed]
        self._cache.admit(group.cache, lengths, prefix.length)
        self.rows += [Row(asked, row) for row in stayed]

    def _decode(self) -> None:
        started = time.perf_counter()
        newest = torch.tensor(
            [[row.asked.tokens[row.index][-1]] for row in self.rows],
            device=input_device(self._model),
        )
        self._announce([row.candidate for row in self.rows])
        mask, positions = self._cache.prepare_step(newest.device)
        logits: Tensor = self._model(
            newest, attention_mask=mask, position_ids=positions, past_key_values=self._cache
        ).logits[:, -1]
        tokens = largest(logits).tolist()
        fail_without_numbers(self.rows, tokens)
        share = (time.perf_counter() - started) / len(self.rows)
        leaving: list[int] = []
        for slot, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            row.asked.seconds += share
            if row.accept(token):
                leaving.append(slot)
        for source, target in self._cache.release(leaving):
            self.rows[target] = self.rows[source]
        del self.rows[len(self.rows) - len(leaving) :]
