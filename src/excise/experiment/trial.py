"""Scores candidates, several side by side.

A candidate is an edit that is being scored. Its bound is the finished trials, which can end its scoring
early. The scores of a candidate depend only on edit, prompts and bound, not on the candidates beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.engine.decode import scheduler_for
from excise.engine.scheduler import Scheduler
from excise.errors import TrialError
from excise.experiment.baseline import Part
from excise.experiment.runner import Runner
from excise.scorers.refusals import JudgedRequest
from excise.search.front import Point, refusals_to_beat
from excise.search.scoring import Bound, Scored


@dataclass
class _RunningTrial:
    """A candidate that is being scored.

    points: the finished trials so far. judged: the answers with their verdicts; None if KL alone rules the
    candidate out, or if the trial failed with `error`.
    """

    candidate_slot: int
    bound: Bound
    points: list[Point]
    divergences: tuple[float, ...] = ()
    kl: float = 0.0
    judged: JudgedRequest | None = None
    error: TrialError | None = None
    seconds: float = 0.0

    @property
    def limit(self) -> int | None:
        """Number of certain refusals at which an earlier trial dominates this trial; None without a limit."""
        return refusals_to_beat(self.points, self.kl)

    @property
    def done(self) -> bool:
        return self.judged is None or self.judged.request.done


class Scoring:
    """Scores up to `candidate_slots` candidates side by side, each as if it ran alone.

    KL is measured first: it takes one forward pass, and determines the number of refusals at which an earlier
    trial dominates the candidate. At that limit decoding stops, because further answers cannot change the
    result. Answers of all candidates decode together, because a step of few sequences costs almost as much as
    a step of many. Candidates finish in the order in which they began.
    """

    def __init__(
        self,
        runner: Runner,
        edits: VirtualEdits,
        part: Part,
        candidate_slots: int,
    ) -> None:
        self._runner, self._edits, self._part = runner, edits, part
        self._edits_of: list[Edit] = []
        self._free = list(range(candidate_slots))
        self._candidate_slots = candidate_slots
        self._running: list[_RunningTrial] = []
        self._scheduler: Scheduler | None = None
        self._scheduler_slots = 0

    def __len__(self) -> int:
        """Number of candidates that are being scored."""
        return len(self._running)

    @property
    def prompts(self) -> int:
        """Number of prompts that are being answered."""
        return sum(
            trial.judged.request.running for trial in self._running if trial.judged is not None
        )

    @property
    def ready(self) -> bool:
        """True if another candidate can begin at once and delays no other candidate."""
        return bool(self._free) and (
            self._scheduler is None or self._scheduler.ready(len(self._part.target))
        )

    @property
    def finished(self) -> bool:
        """True if the scores of the oldest candidate can be taken."""
        return bool(self._running) and self._running[0].done

    def begin(self, edit: Edit, bound: Bound) -> None:
        """Measure a candidate's KL, and request answers to the target prompts unless KL alone decides."""
        started = time.perf_counter()
        trial = _RunningTrial(self._assign_slot(edit), bound, list(bound.points))
        self._running.append(trial)
        target, control = self._assignments(edit, trial)
        try:
            trial.divergences = tuple(
                self._runner.divergences(self._part.control, self._part.original, control)
            )
            trial.kl = mean(trial.divergences)
        except TrialError as error:
            trial.error = error
        else:
            if bound.exhaustive or trial.limit is None or trial.limit > 0:
                trial.judged = self._runner.judged_request(
                    self._part.target,
                    limit=None if bound.exhaustive else trial.limit,
                    priorities=bound.priorities,
                    assignment=target,
                )
                if self._scheduler is not None:
                    self._scheduler.add(trial.judged.request)
        trial.seconds = time.perf_counter() - started

    def advance(self, *, more: bool, seconds: float = math.inf) -> None:
        """Decode until the oldest candidate is finished or, if `more` candidates wait, until one can begin.

        seconds: the time after which it returns in any case, at the end of a step. If memory runs out, all
        requests restart in half as many slots.
        """
        until = time.perf_counter() + seconds

        def work(slots: int) -> None:
            scheduler = self._scheduler_of(slots)
            while not self.finished and not (more and self.ready) and time.perf_counter() < until:
                scheduler.step()

        self._runner.in_slots(work)

    def learn(self, point: Point) -> None:
        """Add a finished trial to the bounds of all running trials."""
        for trial in self._running:
            trial.points.append(point)
            if trial.judged is not None and not trial.bound.exhaustive:
                trial.judged.lower_limit(trial.limit)

    def take(self) -> tuple[Scored | TrialError, float]:
        """The scores of the oldest candidate, which must be finished, and the seconds that it took.

        The seconds are its share of the passes that it ran in beside others. A candidate with a logit that is
        not finite returns the error.
        """
        trial = self._running.pop(0)
        self._free.append(trial.candidate_slot)
        if not self._running:
            self._scheduler = None
            self._edits.use(None)
        if trial.judged is None:
            return trial.error or Scored(trial.kl, None, True, trial.divergences), trial.seconds
        request = trial.judged.request
        seconds = trial.seconds + request.seconds
        if request.failure is not None:
            return request.failure, seconds
        verdicts = trial.judged.verdicts()
        dominated = trial.limit is not None and verdicts.count >= trial.limit
        return Scored(trial.kl, verdicts, dominated, trial.divergences), seconds

    def _assign_slot(self, edit: Edit) -> int:
        """Put the edit in force beside the others; returns its candidate slot."""
        candidate_slot = min(self._free)
        self._free.remove(candidate_slot)
        # The lowest free slot is used, so that `_edits_of` has no gap before it.
        self._edits_of[candidate_slot : candidate_slot + 1] = [edit]
        self._edits.use_several(self._edits_of)
        return candidate_slot

    def _assignments(self, edit: Edit, trial: _RunningTrial) -> tuple[Assignment, Assignment]:
        """Assignments of target and control prompts; layers before the first edited layer are cached."""
        cached_layers = self._part.cached_layers
        start_layer = (
            0
            if cached_layers is None or trial.bound.exhaustive
            else cached_layers.start_layer(edit.changed)
        )
        if cached_layers is None or start_layer == 0:
            both = Assignment(trial.candidate_slot, self._edits.assign)
            return both, both
        target, control = (
            each.replaying(start_layer) for each in (cached_layers.target, cached_layers.control)
        )
        return (
            Assignment(trial.candidate_slot, self._edits.assign, target),
            Assignment(trial.candidate_slot, self._edits.assign, control),
        )

    def _scheduler_of(self, slots: int) -> Scheduler:
        """The scheduler of `slots` slots; a new scheduler if the number of slots changed."""
        if self._scheduler is None or slots != self._scheduler_slots:
            judged = [trial.judged for trial in self._running if trial.judged is not None]
            if self._scheduler is not None:
                # The old scheduler's memory is freed before the new scheduler allocates; its requests
                # restart.
                self._scheduler = None
                for each in judged:
                    each.restart()
            self._scheduler = scheduler_for(
                self._runner.model,
                min(slots, self._candidate_slots * len(self._part.target)),
                judged[0].request.longest,
                self._edits.assign,
            )
            self._scheduler_slots = slots
            for each in judged:
                self._scheduler.add(each.request)
        return self._scheduler


def score_all(
    scoring: Scoring, candidates: Sequence[Edit], bound: Bound
) -> list[Scored | TrialError]:
    """Score all candidates with `scoring`, as many side by side as it has slots for."""
    found: list[Scored | TrialError] = []
    waiting = list(candidates)
    while waiting or len(scoring):
        if waiting and scoring.ready:
            scoring.begin(waiting.pop(0), bound)
        elif scoring.finished:
            found.append(scoring.take()[0])
        else:
            scoring.advance(more=bool(waiting))
    return found
