"""What is measured of an edit on prompts that nothing was fitted to, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.engine.batch_size import with_halving
from excise.engine.decode import greedy
from excise.engine.prefill import Tokens
from excise.engine.teacher import forced_groups
from excise.prompts.splits import PromptParts
from excise.run.record import Answered
from excise.run.runner import Part, Runner, measure_original
from excise.scores.damage import is_empty, is_loop
from excise.scores.divergence import answer_divergence
from excise.scores.refusals import Refusals

ANSWER_TOKENS = 32
"""Tokens of the original model's answers over which KL is averaged."""


Switch = Callable[[bool], None]
"""Puts a change of the model in force, or takes it off."""


@dataclass(frozen=True)
class HeldOut:
    """The original model on held-out prompts; asked once, whatever number of edits is compared to it.

    answers: its answers to control prompts, up to 32 tokens each, none of them empty. seconds: what it took.
    """

    part: Part
    answered: Answered
    answers: tuple[Tokens, ...]
    seconds: float


@dataclass(frozen=True)
class Measured:
    """An edit on held-out prompts, prompt by prompt.

    refused: verdicts on target prompts. divergences: KL of the first answer token of each control prompt,
    answer_divergences: its mean over the first 32 tokens of the original model's answer; nats.
    """

    answered: Answered
    refused: tuple[bool, ...]
    divergences: tuple[float, ...]
    answer_divergences: tuple[float, ...]


def measure_held_out(runner: Runner, prompts: PromptParts) -> HeldOut:
    """Ask the original model the held-out prompts."""
    started = time.perf_counter()
    part = measure_original(runner, prompts.target.held_out, prompts.control.held_out)
    control = runner.refusals(part.control)
    answers = runner.in_rows(
        lambda rows: greedy(runner.model, part.control, max_new_tokens=ANSWER_TOKENS, slots=rows)
    )
    return HeldOut(
        part,
        _answered(part.answered, control),
        tuple(map(tuple, answers)),
        time.perf_counter() - started,
    )


def measure_edit(runner: Runner, held_out: HeldOut, edit: Edit) -> Measured:
    """Ask the edited model the same."""
    with VirtualEdits(runner.model, edit.writers) as edits:
        return measure_changed(runner, held_out, lambda on: edits.use(edit if on else None))


def measure_changed(runner: Runner, held_out: HeldOut, switch: Switch) -> Measured:
    """Ask a model that was changed in whatever way; `switch(False)` makes it the original again."""
    part = held_out.part
    switch(True)
    divergences = part.divergences(runner)
    target, control = runner.refusals(part.target), runner.refusals(part.control)
    along = _answer_divergences(runner, switch, part.control, held_out.answers)
    switch(False)
    return Measured(_answered(target, control), target.refused, tuple(divergences), tuple(along))


def _answered(target: Refusals, control: Refusals) -> Answered:
    texts, tokens = (*target.answers, *control.answers), (*target.tokens, *control.tokens)
    return Answered(
        target.count, control.count, sum(map(is_empty, texts)), sum(map(is_loop, tokens))
    )


@torch.no_grad()
def _answer_divergences(
    runner: Runner,
    switch: Switch,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
) -> list[float]:
    """KL averaged over each answer's tokens; one group of both models' distributions is held at a time."""
    model = runner.model

    def measure(rows: int) -> list[float]:
        found = [0.0] * len(prompts)
        # Generators: each runs its next group, and the common beginning, when it is asked.
        originals = forced_groups(model, prompts, answers, rows)
        changed = forced_groups(model, prompts, answers, rows)
        while True:
            switch(False)
            before = next(originals, None)
            switch(True)
            after = next(changed, None)
            if before is None or after is None:
                return found
            values = answer_divergence(
                before.log_probabilities, after.log_probabilities, before.present
            )
            for row, value in zip(before.rows, values.tolist(), strict=True):
                found[row] = value

    # Whole vocabularies at 32 places each: a few rows fill as much memory as many prompts do elsewhere. What
    # has to be halved here says nothing of other passes.
    found, _ = with_halving(max(1, runner.rows // 8), measure, runner.tell_halved)
    return found
