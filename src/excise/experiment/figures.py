"""Measurements of an edit on held-out prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.batch_size import with_halving
from excise.engine.distributions import Distributions, distributions
from excise.engine.prefill import Tokens
from excise.experiment.runner import Runner
from excise.prompts.splits import Prompts
from excise.scorers.degenerate import is_empty, is_loop
from excise.scorers.divergence import ANSWER_TOKENS, AnswerTokens, divergences
from excise.scorers.refusals import Refusals
from excise.store.outcome import Answered

Switch = Callable[[bool], None]
"""Applies a change of the model (True), or removes it (False)."""


@dataclass(frozen=True)
class HeldOut:
    """The original model on held-out prompts, measured once for all edits.

    target, control: the prompts, as tokens. to_target, to_control: the answers. seconds: of the measurement.
    """

    target: tuple[Tokens, ...]
    control: tuple[Tokens, ...]
    to_target: Refusals
    to_control: Refusals
    seconds: float

    @property
    def answered(self) -> Answered:
        """Its answers, counted."""
        return _answered(self.to_target, self.to_control)

    @property
    def answers(self) -> list[Tokens]:
        """The first 32 tokens of its answers to control prompts; no answer is empty."""
        return [tokens[:ANSWER_TOKENS] for tokens in self.to_control.tokens]

    @property
    def answer_tokens(self) -> AnswerTokens:
        """The number of answer tokens over which KL is averaged."""
        return AnswerTokens.of(self.answers)


@dataclass(frozen=True)
class Measured:
    """An edit on held-out prompts, prompt by prompt.

    refused: verdicts on target prompts, control_refused: on control prompts. divergences: KL of the first
    answer token of each control prompt, answer_divergences: its mean over the first 32 tokens of the original
    model's answer; nats.
    """

    answered: Answered
    refused: tuple[bool, ...]
    control_refused: tuple[bool, ...]
    divergences: tuple[float, ...]
    answer_divergences: tuple[float, ...]


def measure_held_out(runner: Runner, prompts: Prompts) -> HeldOut:
    """Measure the original model on the held-out prompts."""
    started = time.perf_counter()
    target, control = (
        tuple(runner.chat.encode(each.held_out.prompts))
        for each in (prompts.target, prompts.control)
    )
    to_target, to_control = _ask(runner, target, control)
    return HeldOut(target, control, to_target, to_control, time.perf_counter() - started)


def measure_edit(runner: Runner, held_out: HeldOut, edit: Edit) -> Measured:
    """Measure the edited model on the same prompts."""
    with VirtualEdits(runner.model, edit.writers) as edits:
        return measure_changed(runner, held_out, lambda on: edits.use(edit if on else None))


def measure_changed(runner: Runner, held_out: HeldOut, switch: Switch) -> Measured:
    """Measure a model that was changed in any way; `switch(False)` restores the original model."""
    switch(True)
    to_target, to_control = _ask(runner, held_out.target, held_out.control)
    along = _divergences(runner, switch, held_out.control, held_out.answers)
    switch(False)
    return Measured(
        _answered(to_target, to_control),
        to_target.refused,
        to_control.refused,
        tuple(float(each[0]) for each in along),
        tuple(float(each.mean()) for each in along),
    )


def _ask(
    runner: Runner, target: Sequence[Tokens], control: Sequence[Tokens]
) -> tuple[Refusals, Refusals]:
    # One answer serves verdict and KL, so refusals too are decoded to 32 tokens. The edited model's answers
    # are decoded as far, so that both are counted alike.
    to_target, to_control = runner.refusals_of_sets([target, control], min_new_tokens=ANSWER_TOKENS)
    return to_target, to_control


def _answered(target: Refusals, control: Refusals) -> Answered:
    texts, tokens = (*target.answers, *control.answers), (*target.tokens, *control.tokens)
    return Answered(
        target.count, control.count, sum(map(is_empty, texts)), sum(map(is_loop, tokens))
    )


def _divergences(
    runner: Runner,
    switch: Switch,
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
) -> list[Tensor]:
    """KL at each answer's tokens, one tensor [token] for each answer."""

    def groups(rows: int, *, changed: bool) -> Iterator[Distributions]:
        found = distributions(runner.model, prompts, rows, answers=answers, checked=False)
        while True:
            # The generator runs a group, and before the first group the common prefix, in `next`.
            switch(changed)
            group = next(found, None)
            if group is None:
                return
            yield group

    def measure(rows: int) -> list[Tensor]:
        both = zip(groups(rows, changed=False), groups(rows, changed=True), strict=True)
        return divergences((before.log_probabilities, after) for before, after in both)

    # Distributions along answers are large, so few prompts run at a time. If memory runs out here, other
    # passes keep their number of rows.
    found, _ = with_halving(max(1, runner.rows // 8), measure, runner.emit_halved)
    return found
