"""Scores candidates, several side by side.

A candidate is an edit that is being scored. Its bound is the finished trials, which can end its scoring
early. The scores of a candidate depend only on edit, prompts and bound, not on the candidates beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.engine.decode import scheduler_for
from excise.engine.scheduler import Scheduler
from excise.errors import TrialError
from excise.experiment.ahead import Ahead
from excise.experiment.baseline import Part
from excise.experiment.plan import Plan
from excise.experiment.runner import Runner
from excise.experiment.running_trial import RunningTrial
from excise.scorers.answers import RefusalScorer
from excise.scorers.damage import FirstTokenKL
from excise.scorers.scorer import PromptKind
from excise.search.front import Point
from excise.search.scoring import Bound, Scored


class Scoring:
    """Scores up to `candidate_slots` candidates side by side, each as if it ran alone.

    Figures that need no answers come first: KL takes one forward pass, and sets the limit of refusals at
    which the candidate is dominated. At the limit the requests stop, because other answers cannot change
    that. Answers of all candidates decode together, because a step of few sequences costs almost as much as a
    step of many. Candidates leave in the order in which they began.
    """

    def __init__(
        self,
        runner: Runner,
        edits: VirtualEdits,
        part: Part,
        candidate_slots: int,
        plan: Plan | None = None,
    ) -> None:
        """plan: what is measured, by default refusals and KL."""
        self._runner, self._edits, self._part = runner, edits, part
        self._plan = plan or Plan(
            runner, part.prompts, (RefusalScorer(runner.judge), FirstTokenKL())
        )
        self._ahead = Ahead(self._plan, edits, part)
        # The longest answers, and the most prompts of a candidate.
        self._asked = sum(len(part.prompts[kind]) for kind in self._plan.reaches)
        self._edits_of: list[Edit] = []
        self._free = list(range(candidate_slots))
        self._candidate_slots = candidate_slots
        self._running: list[RunningTrial] = []
        self._scheduler: Scheduler | None = None
        self._scheduler_slots = 0

    def __len__(self) -> int:
        """Number of candidates that are being scored."""
        return len(self._running)

    @property
    def prompts(self) -> int:
        """Number of prompts that are being answered."""
        return sum(trial.running for trial in self._running)

    @property
    def ready(self) -> bool:
        """True if another candidate can begin at once and delays no other candidate."""
        return bool(self._free) and (self._scheduler is None or self._scheduler.ready(self._asked))

    @property
    def finished(self) -> bool:
        """True if the scores of the oldest candidate can be taken."""
        return bool(self._running) and self._running[0].done

    def begin(self, edit: Edit, bound: Bound) -> None:
        """Measure what needs no answers, and request answers unless that alone decides."""
        started = time.perf_counter()
        trial = RunningTrial(self._plan, self._assign_slot(edit), bound)
        self._running.append(trial)
        target, control = self._assignments(edit, trial)
        try:
            self._ahead.measure(trial, control)
        except TrialError as error:
            trial.error = error
        if trial.error is None and not trial.is_hopeless:
            self._request_answers(trial, {"target": target})
        trial.seconds = time.perf_counter() - started

    def _request_answers(
        self, trial: RunningTrial, assignments: Mapping[PromptKind, Assignment]
    ) -> None:
        """assignments: of prompts whose first layers are cached with keys; others run whole."""
        whole = Assignment(trial.candidate_slot, self._edits.assign)
        for kind, reach in self._plan.reaches.items():
            parameters = reach.parameters
            if kind == "target":
                limited = self._plan.counted is not None and not trial.bound.exhaustive
                parameters = replace(
                    parameters,
                    limit=trial.limit if limited else None,
                    priorities=trial.bound.priorities,
                )
            judged = self._runner.judged_request(
                self._part.prompts[kind].tokens, parameters, assignments.get(kind, whole)
            )
            trial.requests[kind] = judged
            if self._scheduler is not None:
                self._scheduler.add(judged.request)

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
                if self._plan.follows_answers:
                    for trial in self._running:
                        trial.follow()

        self._runner.in_slots(work)

    def learn(self, point: Point) -> None:
        """Add a finished trial to the bounds of all running trials."""
        for trial in self._running:
            trial.learn(point)

    def take(self) -> tuple[Scored | TrialError, float]:
        """The scores of the oldest candidate, which must be finished, and the seconds that it took.

        The seconds are its share of the passes that it ran in beside others. A candidate with a logit that is
        not finite returns the error.
        """
        trial = self._running.pop(0)
        started = time.perf_counter()
        self._edits.assign([trial.candidate_slot])
        scored = trial.scored()
        seconds = trial.seconds + time.perf_counter() - started
        seconds += sum(judged.request.seconds for judged in trial.requests.values())
        self._free.append(trial.candidate_slot)
        if not self._running:
            self._scheduler = None
            self._edits.use(None)
        return scored, seconds

    def _assign_slot(self, edit: Edit) -> int:
        """Put the edit in force beside the others; returns its candidate slot."""
        candidate_slot = min(self._free)
        self._free.remove(candidate_slot)
        # The lowest free slot is used, so that `_edits_of` has no gap before it.
        self._edits_of[candidate_slot : candidate_slot + 1] = [edit]
        self._edits.use_several(self._edits_of)
        return candidate_slot

    def _assignments(self, edit: Edit, trial: RunningTrial) -> tuple[Assignment, Assignment]:
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
            judged = [each for trial in self._running for each in trial.requests.values()]
            if self._scheduler is not None:
                # The old scheduler's memory is freed before the new scheduler allocates; its requests
                # restart.
                self._scheduler = None
                for trial in self._running:
                    trial.restart()
            self._scheduler = scheduler_for(
                self._runner.model,
                min(slots, self._candidate_slots * self._asked),
                max(each.request.longest for each in judged),
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
