"""A candidate that is being scored: what is known of it, and whether an earlier trial dominates it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from excise.errors import ScorerError, TrialError
from excise.experiment.evidence import Decoded, answer_set
from excise.experiment.plan import Plan, needs_answers
from excise.scorers.asking import named_failures, score_of
from excise.scorers.refusals import JudgedRequest
from excise.scorers.scorer import (
    Answers,
    BoundedScorer,
    EditedModel,
    Evidence,
    ModelInUse,
    Need,
    PromptKind,
    Score,
    Scorer,
)
from excise.search.front import Point, to_beat
from excise.search.scoring import Bound, Scored


class RunningTrial:
    """A candidate that is being scored.

    requests: of answers, none before they are requested. error: of a trial that failed. seconds: of the work
    before the requests.
    """

    def __init__(self, plan: Plan, candidate_slot: int, bound: Bound) -> None:
        self.plan, self.candidate_slot, self.bound = plan, candidate_slot, bound
        self.requests: dict[PromptKind, JudgedRequest] = {}
        self.error: TrialError | None = None
        self.seconds = 0.0
        self._points = list(bound.points)
        self._known: dict[Need[Any], Any] = {}
        self._values: dict[str, float] = {}
        self._scores: dict[str, Score] = {}
        # Costs of the objectives besides the counted refusals: exact ones, or bounds.
        self._bounds: dict[str, float] = {}
        self._ended = 0
        self._work_out_bounds()

    @property
    def done(self) -> bool:
        """True if nothing is being decoded."""
        return all(judged.request.done for judged in self.requests.values())

    @property
    def running(self) -> int:
        """Number of prompts that are being answered."""
        return sum(judged.request.running for judged in self.requests.values())

    @property
    def limit(self) -> float | None:
        """Number of certain refusals at which the trial is dominated; None if no point can dominate it.

        If refusals are no objective, 0 as soon as the trial is dominated.
        """
        counted = self.plan.counted
        return to_beat(self._points, "" if counted is None else counted, self._bounds)

    @property
    def is_hopeless(self) -> bool:
        """True if the trial is dominated before any answer."""
        return not self.bound.exhaustive and self.limit is not None and self.limit <= 0

    def measured(self, found: Mapping[Need[Any], Any]) -> None:
        """Take measurements. Raises ScorerError if a scorer fails."""
        self._known.update(found)
        for scorer in self.plan.scorers:
            if not needs_answers(scorer) and all(need in self._known for need in scorer.needs):
                self._take_value(scorer, Evidence(self._known, self.plan.seed))
        self._work_out_bounds()

    def learn(self, point: Point) -> None:
        """Add a finished trial to those that may dominate this one."""
        self._points.append(point)
        self._lower_limits()

    def follow(self) -> None:
        """Work out the bounds again if answers have ended since the last call."""
        ended = sum(len(judged.complete) for judged in self.requests.values())
        if self.bound.exhaustive or self.error is not None or ended == self._ended:
            return
        self._ended = ended
        try:
            self._work_out_bounds()
        except TrialError as error:
            self.error = error
            self._stop()
        else:
            self._lower_limits()

    def restart(self) -> None:
        """Discard all answers."""
        self._ended = 0
        for judged in self.requests.values():
            judged.restart()

    def scored(self) -> Scored | TrialError:
        """The result of a trial that is done. Its edit must apply to all rows."""
        failures = [judged.request.failure for judged in self.requests.values()]
        failure = self.error or next((each for each in failures if each is not None), None)
        try:
            return failure or self._scored()
        except TrialError as error:
            return error

    def _scored(self) -> Scored:
        plan, decoded = self.plan, self._decoded()
        complete = decoded.keys() == plan.reaches.keys() and not any(
            each.answers.unknown for each in decoded.values()
        )
        refused = decoded["target"].answers.count if "target" in decoded else 0
        if plan.counted is not None:
            self._values[plan.counted] = refused
        for scorer in plan.scorers:
            if complete and needs_answers(scorer):
                self._take_value(scorer, self._evidence(scorer, decoded, at_end=True))
        self._work_out_bounds()
        dominated = self.limit is not None and refused >= self.limit
        values = {
            name: self._values[name]
            if name in self._values
            else objective.value(self._bounds[name])
            for name, objective in plan.objectives.items()
        }
        answered = decoded["target"].answers if "target" in decoded else None
        return Scored(values, dominated, answered, self._scores)

    def _take_value(self, scorer: Scorer, evidence: Evidence) -> None:
        """The value of a scorer from all its evidence, and its score if scores are wanted."""
        name, plan = scorer.name, self.plan
        if plan.detailed and name not in self._scores:
            self._scores[name] = score_of(scorer, evidence)
        if name in self._values:
            return
        if name in self._scores:
            value = self._scores[name].value
        elif isinstance(scorer, BoundedScorer):
            # With all evidence the bound is the value, and an interval would take time.
            value = _bound(scorer, evidence)
        else:
            value = score_of(scorer, evidence).value
        objective = plan.objectives[name]
        self._values[name] = objective.value(objective.cost(value))

    def _work_out_bounds(self) -> None:
        """Raises ScorerError if a scorer fails."""
        decoded = self._decoded() if self.plan.follows_answers else {}
        for scorer in self.plan.scorers:
            name, objective = scorer.name, self.plan.objectives[scorer.name]
            if name == self.plan.counted:
                continue
            if name in self._values:
                self._bounds[name] = objective.cost(self._values[name])
            elif isinstance(scorer, BoundedScorer):
                evidence = self._evidence(scorer, decoded, at_end=False)
                self._bounds[name] = objective.cost(_bound(scorer, evidence))
            else:
                self._bounds[name] = -math.inf

    def _lower_limits(self) -> None:
        """Stop answers that cannot change that the trial is dominated."""
        limit = self.limit
        if self.bound.exhaustive or limit is None:
            return
        target = self.requests.get("target")
        refused = 0 if target is None or self.plan.counted is None else target.certain
        if refused >= limit:
            self._stop()
        elif target is not None and self.plan.counted is not None:
            target.lower_limit(limit)

    def _stop(self) -> None:
        for judged in self.requests.values():
            judged.lower_limit(0)

    def _decoded(self) -> dict[PromptKind, Decoded]:
        """The answers so far."""
        return {
            kind: Decoded(self.plan.reaches[kind], judged.verdicts())
            for kind, judged in self.requests.items()
        }

    def _evidence(
        self, scorer: Scorer, decoded: Mapping[PromptKind, Decoded], *, at_end: bool
    ) -> Evidence:
        """What is known for a scorer. at_end: whether all answers have ended, and the edit is in force."""
        plan, found = self.plan, dict(self._known)
        for need in scorer.needs:
            if isinstance(need, Answers) and need.prompts in decoded:
                asked, kind = plan.prompts[need.prompts], need.prompts
                answers = answer_set(plan.runner, asked, decoded[kind], need)
                complete = self.requests[kind].complete
                finished = tuple(index in complete for index in range(len(answers)))
                found[need] = answers if at_end else replace(answers, finished=finished)
            elif isinstance(need, EditedModel) and at_end:
                found[need] = ModelInUse(plan.runner.model, plan.runner.chat, plan.runner.rows)
        return Evidence(found, plan.seed)


def _bound(scorer: BoundedScorer, evidence: Evidence) -> float:
    """The bound of a scorer. Raises ScorerError."""
    with named_failures(scorer):
        bound = float(scorer.lower_bound(evidence))
    if math.isnan(bound):
        raise ScorerError(scorer.name, "its bound is no number")
    return bound
