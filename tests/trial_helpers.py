"""Scores edits side by side, as a search does."""

from __future__ import annotations

from collections.abc import Sequence

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import TrialError
from excise.experiment.baseline import Part
from excise.experiment.runner import Runner
from excise.experiment.trial import Scoring, score_all
from excise.search.scoring import Bound, Scored


def score(
    runner: Runner, edits: VirtualEdits, candidates: Sequence[Edit], part: Part, bound: Bound
) -> list[Scored | TrialError]:
    """The scores of all candidates side by side on one part of the prompts."""
    try:
        return score_all(Scoring(runner, edits, part, len(candidates)), candidates, bound)
    finally:
        edits.use(None)
