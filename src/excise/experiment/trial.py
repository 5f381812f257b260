"""A trial: candidates in, scores out. What comes out depends on edit, prompts and what there is to beat."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.engine.decode import Pool, pool_for
from excise.errors import TrialError
from excise.experiment.runner import Part, Runner
from excise.scorers.refusals import Hearing, Refusals
from excise.search.front import Point, refusals_to_beat


@dataclass(frozen=True)
class Scored:
    """A candidate's scores.

    kl: nats, first answer token, mean over control prompts. answered: verdicts on target prompts; None if
    KL alone rules the candidate out. dominated: a trial before it is at least as good in both; its
    refusals are then a lower bound.
    """

    kl: float
    answered: Refusals | None
    dominated: bool

    @property
    def refusals(self) -> int:
        """Certain refusals."""
        return 0 if self.answered is None else self.answered.count


@dataclass(frozen=True)
class Contest:
    """What decides how much of a trial is waited for.

    to_beat: trials finished before. urgency: of each target prompt, how often it was refused before: asked
    first, these rule a bad candidate out soonest. exhaustive: wait for every verdict and run every layer all
    the same; the scores that come out are alike.
    """

    to_beat: tuple[Point, ...] = ()
    urgency: tuple[float, ...] | None = None
    exhaustive: bool = False


@dataclass
class _UnderWay:
    """A candidate that is being scored. hearing: None if nothing is asked. error: why it failed, if so."""

    seat: int
    contest: Contest
    to_beat: list[Point]
    kl: float = 0.0
    hearing: Hearing | None = None
    error: TrialError | None = None
    seconds: float = 0.0

    @property
    def limit(self) -> int | None:
        """Certain refusals from which on it is dominated; None if nothing has so little KL."""
        return refusals_to_beat(self.to_beat, self.kl)

    @property
    def done(self) -> bool:
        return self.hearing is None or self.hearing.asked.done


class Scoring:
    """Candidates being scored, up to `seats` of them under way at a time, each as if it were alone.

    KL comes first: it takes one forward pass, and tells how many refusals a candidate may have at most to
    be better than all before it. Once so many are certain its other answers are not waited for: whatever
    they are, the candidate is dominated. Answers of all candidates decode together, so that the few that
    run on to their end do not run alone: a step of few rows costs almost what one of many does. They are
    handed out in the order in which they came.
    """

    def __init__(
        self,
        runner: Runner,
        edits: VirtualEdits,
        part: Part,
        seats: int,
    ) -> None:
        self._runner, self._edits, self._part = runner, edits, part
        self._edits_of: list[Edit] = []
        self._free = list(range(seats))
        self._seats = seats
        self._under_way: list[_UnderWay] = []
        self._pool: Pool | None = None
        self._pool_slots = 0

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    @property
    def prompts(self) -> int:
        """How many of their prompts are being answered."""
        return sum(one.hearing.asked.open for one in self._under_way if one.hearing is not None)

    @property
    def ready(self) -> bool:
        """True if another candidate can begin and nobody has to wait for slots."""
        return bool(self._free) and (self._pool is None or self._pool.ready(len(self._part.target)))

    @property
    def finished(self) -> bool:
        """True if the first of those under way can be taken."""
        return bool(self._under_way) and self._under_way[0].done

    def begin(self, edit: Edit, contest: Contest) -> None:
        """Measure a candidate's KL, and let it be asked the target prompts if they can matter."""
        started = time.perf_counter()
        one = _UnderWay(self._sit_down(edit), contest, list(contest.to_beat))
        self._under_way.append(one)
        target, control = self._assignments(edit, one)
        try:
            one.kl = mean(
                self._runner.divergences(self._part.control, self._part.original, control)
            )
        except TrialError as error:
            one.error = error
        else:
            if contest.exhaustive or one.limit is None or one.limit > 0:
                one.hearing = self._runner.hearing(
                    self._part.target,
                    limit=None if contest.exhaustive else one.limit,
                    urgency=contest.urgency,
                    assignment=target,
                )
                if self._pool is not None:
                    self._pool.add(one.hearing.asked)
        one.seconds = time.perf_counter() - started

    def advance(self, *, more: bool, seconds: float = math.inf) -> None:
        """Go on until the first is finished or, if there are `more` to come, until another can begin.

        seconds: after so many it returns in any case, at the end of a step. Where memory runs out, all are
        asked again in half as many slots.
        """
        until = time.perf_counter() + seconds

        def work(slots: int) -> None:
            pool = self._pool_of(slots)
            while not self.finished and not (more and self.ready) and time.perf_counter() < until:
                pool.step()

        self._runner.in_slots(work)

    def learn(self, point: Point) -> None:
        """Let what is under way have this trial to beat as well."""
        for one in self._under_way:
            one.to_beat.append(point)
            if one.hearing is not None and not one.contest.exhaustive:
                one.hearing.lower(one.limit)

    def take(self) -> tuple[Scored | TrialError, float]:
        """The scores of the first of those under way, which is to be finished, and the seconds it took.

        Those are its share of the passes in which it ran beside others. A candidate with a logit that is not
        a number gives the error.
        """
        one = self._under_way.pop(0)
        self._free.append(one.seat)
        if not self._under_way:
            self._pool = None
            self._edits.use(None)
        if one.hearing is None:
            return one.error or Scored(one.kl, None, dominated=True), one.seconds
        asked = one.hearing.asked
        seconds = one.seconds + asked.seconds
        if asked.failure is not None:
            return asked.failure, seconds
        verdicts = one.hearing.verdicts()
        dominated = one.limit is not None and verdicts.count >= one.limit
        return Scored(one.kl, verdicts, dominated), seconds

    def _sit_down(self, edit: Edit) -> int:
        """Put the edit in force beside the others; returns its number."""
        seat = min(self._free)
        self._free.remove(seat)
        # Seats from the lowest on are taken first, so there is never a gap before a new one.
        self._edits_of[seat : seat + 1] = [edit]
        self._edits.use_several(self._edits_of)
        return seat

    def _assignments(self, edit: Edit, one: _UnderWay) -> tuple[Assignment, Assignment]:
        """How target and control prompts are asked: with what is known of layers before the edited ones."""
        early = self._part.early
        cut = 0 if early is None or one.contest.exhaustive else early.cut(edit.changed)
        if early is None or cut == 0:
            both = Assignment(one.seat, self._edits.assign)
            return both, both
        target, control = (each.replaying(cut) for each in (early.target, early.control))
        return (
            Assignment(one.seat, self._edits.assign, target),
            Assignment(one.seat, self._edits.assign, control),
        )

    def _pool_of(self, slots: int) -> Pool:
        """The pool, a new one if there is none of so many slots."""
        if self._pool is None or slots != self._pool_slots:
            hearings = [one.hearing for one in self._under_way if one.hearing is not None]
            if self._pool is not None:
                # Its memory is to be free before there is another one; nobody can go on from what it held.
                self._pool = None
                for hearing in hearings:
                    hearing.begin_again()
            self._pool = pool_for(
                self._runner.model,
                min(slots, self._seats * len(self._part.target)),
                hearings[0].asked.longest,
                self._edits.assign,
            )
            self._pool_slots = slots
            for hearing in hearings:
                self._pool.add(hearing.asked)
        return self._pool


def score(
    runner: Runner,
    edits: VirtualEdits,
    candidates: Sequence[Edit],
    part: Part,
    contest: Contest,
) -> list[Scored | TrialError]:
    """Score candidates side by side on one part of the prompts, each as if it were alone; see `Scoring`."""
    return score_all(Scoring(runner, edits, part, len(candidates)), edits, candidates, contest)


def score_all(
    scoring: Scoring, edits: VirtualEdits, candidates: Sequence[Edit], contest: Contest
) -> list[Scored | TrialError]:
    """Take all candidates through `scoring`, as many side by side as it has seats."""
    found: list[Scored | TrialError] = []
    waiting = list(candidates)
    try:
        while waiting or len(scoring):
            if waiting and scoring.ready:
                scoring.begin(waiting.pop(0), contest)
            elif scoring.finished:
                found.append(scoring.take()[0])
            else:
                scoring.advance(more=bool(waiting))
    finally:
        edits.use(None)
    return found
