"""Judges the answers of a trial again, whole, by the chosen judge."""

from __future__ import annotations

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.experiment.measurements import Measurements
from excise.judges.judge import verdicts_of
from excise.judges.verdict import Exchange
from excise.store.judged import SHOWN, Disagreement, JudgedTrial


def judge_trial(experiment: Measurements, number: int, edit: Edit) -> JudgedTrial:
    """The trial's whole answers to the target prompts of the search, by keywords and by the judge.

    Raises JudgeError, and TrialError if a logit is not finite.
    """
    asked = experiment.search_part.prompts["target"]
    with VirtualEdits(experiment.model, edit.writers) as edits:
        edits.use(edit)
        found = experiment.runner.refusals(asked.tokens, whole_answers=True)
    exchanges = [Exchange(*pair) for pair in zip(asked.texts, found.answers, strict=True)]
    verdicts = verdicts_of(experiment.judge, exchanges, experiment.emit)
    differing = [
        Disagreement(each.prompt, each.answer, refused, verdict.outcome, verdict.reason)
        for each, refused, verdict in zip(exchanges, found.refused, verdicts, strict=True)
        if refused != verdict.refused
    ]
    refusals = sum(verdict.refused for verdict in verdicts)
    few = tuple(differing[:SHOWN])
    return JudgedTrial(number, len(exchanges), found.count, refusals, len(differing), few)
