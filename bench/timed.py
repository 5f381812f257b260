"""Candidates scored side by side as a search scores them, with or without the seconds of each stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from math import inf

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


class TimedScoring(Scoring):
    """Adds up wall seconds of the stages "kl", which puts the edit in force too, and "refusals"."""

    def __init__(
        self, runner: Runner, edits: VirtualEdits, part: Part, candidate_slots: int
    ) -> None:
        super().__init__(runner, edits, part, candidate_slots)
        self.seconds: Counter[str] = Counter()

    def begin(self, edit: Edit, bound: Bound) -> None:
        """See `Scoring`."""
        started = time.perf_counter()
        super().begin(edit, bound)
        self.seconds["kl"] += time.perf_counter() - started

    def advance(self, *, more: bool, seconds: float = inf) -> None:
        """See `Scoring`."""
        started = time.perf_counter()
        super().advance(more=more, seconds=seconds)
        self.seconds["refusals"] += time.perf_counter() - started


def timed_score(
    runner: Runner, edits: VirtualEdits, candidates: Sequence[Edit], part: Part, bound: Bound
) -> tuple[list[Scored | TrialError], dict[str, float]]:
    """`score`, and the wall seconds of the stages "kl" and "refusals"."""
    scoring = TimedScoring(runner, edits, part, len(candidates))
    return score_all(scoring, candidates, bound), dict(scoring.seconds)
