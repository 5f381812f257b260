"""Measurements of a model, original or edited, by scorers on one part of the prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ScorerError
from excise.experiment.comparisons import Switch, compare
from excise.experiment.evidence import (
    Decoded,
    PartPrompts,
    Reach,
    answer_set,
    decode,
    needs_of,
    reaches,
)
from excise.experiment.runner import Runner
from excise.scorers.asking import score_of
from excise.scorers.divergence import ANSWER_TOKENS, AnswerTokens
from excise.scorers.scorer import (
    AlongAnswers,
    Answers,
    EditedModel,
    Evidence,
    FirstToken,
    ModelInUse,
    Need,
    PromptKind,
    Score,
    Scorer,
    compares,
)


@dataclass(frozen=True)
class Original:
    """The original model on a part of the prompts, measured once for all edits.

    decoded: its answers. scores: by name, of the scorers that measure one model alone. seconds: of the
    measurement.
    """

    prompts: PartPrompts
    decoded: Mapping[PromptKind, Decoded]
    scores: Mapping[str, Score]
    seconds: float

    @property
    def answer_tokens(self) -> AnswerTokens:
        """The number of tokens of its answers to control prompts over which KL is averaged."""
        answers = self.decoded["control"].answers.tokens
        return AnswerTokens.of([tokens[:ANSWER_TOKENS] for tokens in answers])


def measure_unedited(
    runner: Runner, prompts: PartPrompts, scorers: Sequence[Scorer], seed: int
) -> Original:
    """Measure the original model. Raises TrialError."""
    started = time.perf_counter()
    needs = needs_of(scorers)
    decoded = decode(runner, prompts, reaches([*needs, *_given(needs)], runner.max_new_tokens))
    alone = [scorer for scorer in scorers if not compares(scorer)]
    evidence = _evidence(runner, prompts, decoded, {}, alone, seed)
    scores = {scorer.name: score_of(scorer, evidence) for scorer in alone}
    return Original(prompts, decoded, scores, time.perf_counter() - started)


def measure_edit(
    runner: Runner, original: Original, edit: Edit, scorers: Sequence[Scorer], seed: int
) -> dict[str, Score]:
    """The scores of the edited model on the same prompts, by name. Raises TrialError."""
    with VirtualEdits(runner.model, edit.writers) as edits:
        return measure_changed(
            runner, original, lambda on: edits.use(edit if on else None), scorers, seed
        )


def measure_changed(
    runner: Runner, original: Original, switch: Switch, scorers: Sequence[Scorer], seed: int
) -> dict[str, Score]:
    """The scores of a model that was changed in any way; `switch(False)` restores the original model."""
    needs, prompts = needs_of(scorers), original.prompts
    switch(True)
    try:
        decoded = decode(runner, prompts, reaches(needs, runner.max_new_tokens))
        if given := reaches(_given(needs), runner.max_new_tokens):
            answers = _answers_along(runner, original, switch, given)
            compared = compare(runner, switch, prompts, answers, scorers)
        else:
            compared = compare(runner, switch, prompts, {}, scorers)
        evidence = _evidence(runner, prompts, decoded, compared, scorers, seed)
        return {scorer.name: score_of(scorer, evidence) for scorer in scorers}
    finally:
        switch(False)


def _given(needs: Sequence[Need[Any]]) -> list[Need[Any]]:
    """The original model's answers that comparisons along answers need."""
    return [Answers(need.prompts, need.tokens) for need in needs if isinstance(need, AlongAnswers)]


def _answers_along(
    runner: Runner, original: Original, switch: Switch, wanted: Mapping[PromptKind, Reach]
) -> dict[PromptKind, list[Sequence[int]]]:
    """The original model's answers, decoded anew where they were not decoded far enough before."""
    known = original.decoded
    lacking = {
        kind: reach
        for kind, reach in wanted.items()
        if kind not in known or not known[kind].reach.holds(reach)
    }
    if lacking:
        switch(False)
        known = {**known, **decode(runner, original.prompts, lacking)}
        switch(True)
    return {
        kind: [tokens[: reach.most] for tokens in known[kind].answers.tokens]
        for kind, reach in wanted.items()
    }


def _evidence(
    runner: Runner,
    prompts: PartPrompts,
    decoded: Mapping[PromptKind, Decoded],
    compared: Mapping[Need[Any], Any],
    scorers: Sequence[Scorer],
    seed: int,
) -> Evidence:
    """The evidence for scorers, of the model as it is now."""
    found: dict[Need[Any], Any] = dict(compared)
    for scorer in scorers:
        for need in scorer.needs:
            if isinstance(need, Answers):
                found[need] = answer_set(runner, prompts[need.prompts], decoded[need.prompts], need)
            elif isinstance(need, EditedModel):
                found[need] = ModelInUse(runner.model, runner.chat, runner.rows)
            elif not isinstance(need, FirstToken | AlongAnswers):
                raise ScorerError(scorer.name, f"needs {need!r}, which is no need of excise")
    return Evidence(found, seed)
