"""Measurements of a model, original or edited, by scorers on one part of the prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ScorerError
from excise.experiment.comparisons import Comparisons, Switch, owners_of
from excise.experiment.evidence import (
    Decoded,
    OriginalAnswers,
    PartPrompts,
    along,
    answer_set,
    decode,
    needs_of,
    reaches,
)
from excise.experiment.runner import Runner
from excise.scorers.asking import score_of
from excise.scorers.divergence import AnswerTokens
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

    answers: its answers. scores: by name, of the scorers that measure one model alone. seconds: of the
    measurement.
    """

    prompts: PartPrompts
    answers: OriginalAnswers
    scores: Mapping[str, Score]
    seconds: float

    def answer_tokens(self, needs: Sequence[Need[Any]]) -> AnswerTokens:
        """The number of tokens of its answers to control prompts that these needs compare."""
        return AnswerTokens.of(self.answers.along(needs)["control"])


Failed = Callable[[ScorerError], None]
"""Takes the error of a scorer whose figure is then left out; it may raise the error."""


def refuse(error: ScorerError) -> None:
    """Raise the error: every figure is needed."""
    raise error


def measure_unedited(
    runner: Runner,
    prompts: PartPrompts,
    scorers: Sequence[Scorer],
    seed: int,
    failed: Failed = refuse,
) -> Original:
    """Measure the original model. Raises TrialError."""
    started = time.perf_counter()
    needs = needs_of(scorers)
    answers = OriginalAnswers(runner, prompts)
    decoded = answers.decode(reaches([*needs, *along(needs)], runner.max_new_tokens))
    alone = [scorer for scorer in scorers if not compares(scorer)]
    scores = _scores(_Evidence(runner, prompts, decoded, {}, seed), alone, failed)
    return Original(prompts, answers, scores, time.perf_counter() - started)


def measure_edit(
    runner: Runner,
    original: Original,
    edit: Edit,
    scorers: Sequence[Scorer],
    seed: int,
    failed: Failed = refuse,
) -> dict[str, Score]:
    """The scores of the edited model on the same prompts, by name. Raises TrialError."""
    with VirtualEdits(runner.model, edit.writers) as edits:
        return measure_changed(
            runner, original, lambda on: edits.use(edit if on else None), scorers, seed, failed
        )


def measure_changed(
    runner: Runner,
    original: Original,
    switch: Switch,
    scorers: Sequence[Scorer],
    seed: int,
    failed: Failed = refuse,
) -> dict[str, Score]:
    """The scores of a model that was changed in any way; `switch(False)` restores the original model."""
    needs, prompts, asked = needs_of(scorers), original.prompts, list(scorers)
    switch(True)
    try:
        decoded = decode(runner, prompts, reaches(needs, runner.max_new_tokens))
        switch(False)
        answers = original.answers.along(needs)
        compared: dict[Need[Any], Any] | None = None
        while compared is None:
            try:
                owners = owners_of(asked, FirstToken, AlongAnswers)
                compared = Comparisons(runner, switch, prompts, answers, owners).measure()
            except ScorerError as error:
                failed(error)
                asked = [scorer for scorer in asked if scorer.name != error.scorer]
        switch(True)
        return _scores(_Evidence(runner, prompts, decoded, compared, seed), asked, failed)
    finally:
        switch(False)


@dataclass(frozen=True)
class _Evidence:
    """What was measured of the model as it is now."""

    runner: Runner
    prompts: PartPrompts
    decoded: Mapping[PromptKind, Decoded]
    compared: Mapping[Need[Any], Any]
    seed: int

    def of(self, scorer: Scorer) -> Evidence:
        """The evidence for a scorer."""
        found: dict[Need[Any], Any] = dict(self.compared)
        for need in scorer.needs:
            if isinstance(need, Answers):
                kind = need.prompts
                found[need] = answer_set(self.runner, self.prompts[kind], self.decoded[kind], need)
            elif isinstance(need, EditedModel):
                runner = self.runner
                found[need] = ModelInUse(runner.model, runner.chat, runner.rows)
            elif not isinstance(need, FirstToken | AlongAnswers):
                raise ScorerError(scorer.name, f"needs {need!r}, which is no need of excise")
        return Evidence(found, self.seed)


def _scores(evidence: _Evidence, scorers: Sequence[Scorer], failed: Failed) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for scorer in scorers:
        try:
            scores[scorer.name] = score_of(scorer, evidence.of(scorer))
        except ScorerError as error:
            failed(error)
    return scores
