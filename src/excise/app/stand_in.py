"""The smooth stand-in for a trial's scores, on train prompts: what the gradient search descends.

Loss: KL − w·log(1 − m), where m is the probability that the answer to a target prompt begins as a refusal
does, and KL is the first answer token's plus the mean of those that follow, teacher-forced with the
original model's answer to a control prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from excise.devices.memory import place_for
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.batch_size import with_halving
from excise.engine.decode import greedy
from excise.engine.prefill import (
    Prefix,
    Tokens,
    common_prefix_length,
    length_groups,
    padding_slack,
    run_group,
    run_prefix,
)
from excise.engine.teacher import branched, forced_group, forced_groups
from excise.experiment.runner import Runner
from excise.models.positions import within_positions
from excise.scorers.openings import Opening, opening_mass, stems_of
from excise.search.gradient import descend

ANSWER_TOKENS = 8
_CONTROLS = 64
"""Control prompts whose original distributions are kept: vocabulary × 8 numbers each."""
_BATCH = 16
"""Prompts of each kind a step."""
_SMALLEST = 1e-6
"""Least probability of no refusal: keeps the logarithm finite."""


class StandIn:
    """The loss of an edit's strengths, on batches of train prompts."""

    def __init__(self, runner: Runner, target: Sequence[Tokens], control: Sequence[Tokens]) -> None:
        """Ask the original model for its answers to some of the control prompts."""
        self._model, self._target = runner.model, list(target)
        self._control = list(control[:_CONTROLS])
        self._runner, self._limit = runner, _BATCH
        most = within_positions(self._model, self._control, ANSWER_TOKENS)
        self._answers = runner.in_rows(
            lambda rows: greedy(self._model, self._control, max_new_tokens=most, slots=rows)
        )
        self._original = runner.in_rows(self._distributions)

    @torch.no_grad()
    def _distributions(self, limit: int) -> dict[int, Tensor]:
        """The original model's log-probabilities [token, vocabulary] along its answers, by prompt."""
        found: dict[int, Tensor] = {}
        for group in forced_groups(self._model, self._control, self._answers, limit):
            of_one = group.log_probabilities[0].nbytes
            place = place_for(len(self._control) * of_one, group.log_probabilities.device)
            for row, values, length in zip(
                group.rows, group.log_probabilities, group.lengths, strict=True
            ):
                # A copy, or it would hold its whole group.
                found[row] = values[-length:].to(place, copy=True)
        return found

    def refine(
        self,
        edits: VirtualEdits,
        edit: Edit,
        openings: Sequence[Opening],
        weight: float,
        steps: int,
        seed: int,
    ) -> tuple[float, ...]:
        """The strengths of each writer after descent from those of `edit`, at one trade-off weight.

        Smaller groups are run if memory runs out; a step's loss is a mean over the same prompts all the same.
        Raises TrialError if a logit is not a number.
        """

        def work(limit: int) -> tuple[float, ...]:
            return self._refined(edits, edit, openings, weight, steps, seed, limit)

        found, self._limit = with_halving(self._limit, work, self._runner.emit_halved)
        return found

    def _refined(
        self,
        edits: VirtualEdits,
        edit: Edit,
        openings: Sequence[Opening],
        weight: float,
        steps: int,
        seed: int,
        limit: int,
    ) -> tuple[float, ...]:
        writers = len(edit.strengths) // edit.directions
        targets = _batches(len(self._target), [seed, 0])
        controls = _batches(len(self._control), [seed, 1])

        def loss(strengths: Tensor, step: int) -> float:
            total = 0.0
            parts = chain(
                self._refusal_losses(next(targets), openings, weight, limit),
                self._divergences(next(controls), limit),
            )
            while True:
                # Anew for each group: backward uses up the graph from strengths to hooks.
                edits.use(replace(edit, strengths=strengths.repeat(edit.directions)))
                part = next(parts, None)
                if part is None:
                    return total
                part.backward()  # type: ignore[no-untyped-call]
                total += float(part.detach())

        try:
            found = descend(loss, edit.strengths[:writers], steps)
        finally:
            edits.use(None)
        return tuple(found.tolist())

    def _refusal_losses(
        self, rows: Sequence[int], openings: Sequence[Opening], weight: float, limit: int
    ) -> Iterator[Tensor]:
        prompts, stems = self._target, stems_of(openings)
        for group_rows, prefix in self._groups(prompts, prompts, rows, limit):
            group = run_group(self._model, prompts, group_rows, prefix)
            first = group.logits[:, -1].to(torch.float32).log_softmax(-1)
            behind = branched(self._model, prompts, group, stems) if stems else None
            mass = opening_mass(first, behind, openings, stems)
            yield -weight * (1 - mass).clamp_min(_SMALLEST).log().sum() / len(rows)

    def _divergences(self, rows: Sequence[int], limit: int) -> Iterator[Tensor]:
        answers = self._answers
        sequences = [
            [*prompt, *answer[:-1]] for prompt, answer in zip(self._control, answers, strict=True)
        ]
        for group_rows, prefix in self._groups(self._control, sequences, rows, limit):
            group = forced_group(self._model, sequences, answers, group_rows, prefix)
            total = torch.zeros((), device=group.log_probabilities.device)
            for place, row in enumerate(group.rows):
                p_log = self._original[row].to(total.device)
                q_log = group.log_probabilities[place][-group.lengths[place] :]
                each = (p_log.exp() * (p_log - q_log).nan_to_num(0.0, 0.0, 0.0)).sum(-1)
                total = total + each[0] + (each[1:].mean() if len(each) > 1 else 0.0)
            yield total / len(rows)

    def _groups(
        self,
        prompts: Sequence[Tokens],
        sequences: Sequence[Tokens],
        rows: Sequence[int],
        limit: int,
    ) -> Iterator[tuple[tuple[int, ...], Prefix]]:
        """Groups of `rows`, each with the common beginning run anew: backward uses up its graph."""
        shared = prompts[0][: common_prefix_length(prompts)]
        prefix = run_prefix(self._model, shared)
        slack = padding_slack(self._model, sequences, prefix)
        for number, group in enumerate(length_groups(sequences, rows, limit, slack)):
            yield group, prefix if number == 0 else run_prefix(self._model, shared)


def _batches(count: int, seed: Sequence[int]) -> Iterator[list[int]]:
    """Endless batches of row numbers, each row once before any comes again."""
    generator = np.random.default_rng(list(seed))
    while True:
        order = generator.permutation(count).tolist()
        for start in range(0, max(1, count - _BATCH + 1), _BATCH):
            yield order[start : start + _BATCH]
