"""The search loop: propose, score, store. It never writes, copies or reloads a weight."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import optuna
from optuna.trial import BaseTrial
from transformers import PreTrainedModel

from excise.devices.memory import devices_of, peak_memory
from excise.edits.edit import Edit
from excise.engine.tokens import TokenCounter
from excise.errors import ExciseError, TrialError
from excise.events import Emit
from excise.search.events import SearchEnded, SearchStarted, TrialFinished, TrialStarted, WorkDone
from excise.search.front import Point, pareto_front
from excise.search.scoring import Bound, EditScoring, Scored
from excise.search.study import OptunaStudy

_FAILURES_IN_A_ROW = 10
"""Number of failed trials in a row that ends the search."""
_REPORT_SECONDS = 2.0
"""Seconds between reports of tokens a second."""
_REFUSED = "refused"
"""Attribute of a trial: the target prompts that were certainly refused."""


@dataclass(frozen=True)
class Task:
    """What a search works on.

    prompts: number of target prompts. edit: makes the edit of a trial from its suggested parameters. scoring:
    a context that scores this number of edits side by side.
    """

    model: PreTrainedModel
    prompts: int
    edit: Callable[[BaseTrial], Edit]
    scoring: Callable[[int], AbstractContextManager[EditScoring]]


@dataclass(frozen=True)
class Limits:
    """The limits of a search.

    trials: number in the finished study. candidates: number that are scored side by side. seconds: time after
    which no trial is proposed. exhaustive: see `Bound`.
    """

    trials: int
    candidates: int = 1
    seconds: float | None = None
    exhaustive: bool = False


def never() -> bool:
    """A `stop` that never stops."""
    return False


def search(
    study: OptunaStudy,
    task: Task,
    limits: Limits,
    emit: Emit,
    *,
    stop: Callable[[], bool] = never,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Score trials until the study holds enough trials, the time limit is reached, or `stop()` is true.

    Several trials run at a time. When the search stops, the oldest of them is finished; the others stay
    running in the storage and resume with the next search. Failed trials do not count towards
    `Limits.trials`. If many trials in a row fail, the search ends; it raises ExciseError if no trial
    succeeded.

    save: called at the start of the search and after every trial.
    """
    save()
    emit(SearchStarted(limits.trials, study.done()))
    with task.scoring(limits.candidates) as scoring, TokenCounter(task.model) as tokens:
        loop = _Loop(study, task, limits, scoring, _Reports(emit, tokens, scoring), save)
        why = loop.run(stop)
    emit(SearchEnded(why, tuple(pareto_front(study.points()))))


class _Reports:
    """Emits the number of processed tokens every few seconds."""

    def __init__(self, emit: Emit, tokens: TokenCounter, scoring: EditScoring) -> None:
        self.emit, self._tokens, self._scoring = emit, tokens, scoring
        self._last = time.perf_counter()

    @property
    def seconds_left(self) -> float:
        """Seconds until the next report is due."""
        return self._last + _REPORT_SECONDS - time.perf_counter()

    def work_done(self) -> None:
        """Report the work since the last report."""
        now = time.perf_counter()
        self.emit(
            WorkDone(
                tokens=self._tokens.take(),
                seconds=now - self._last,
                candidates=len(self._scoring),
                prompts=self._scoring.prompts,
            )
        )
        self._last = now


@dataclass
class _Running:
    """A proposed trial without a result. seconds: the time that its proposal took."""

    trial: optuna.Trial
    edit: Edit
    seconds: float
    begun: bool = False


class _Loop:
    """The state of a running search.

    `Limits.candidates` trials run at a time. Trial n is proposed when exactly the trials up to n − candidates
    have results. The proposals therefore do not depend on how long trials take, nor on early verdicts.
    The running trials of an interrupted study come first. If a complete study is extended, the first
    new proposals use all of its trials.
    """

    def __init__(
        self,
        study: OptunaStudy,
        task: Task,
        limits: Limits,
        scoring: EditScoring,
        reports: _Reports,
        save: Callable[[], None],
    ) -> None:
        self._study, self._task, self._limits = study, task, limits
        self._scoring, self._reports, self._save = scoring, reports, save
        self._interrupted = study.running()
        self._running: list[_Running] = []
        self._started = time.perf_counter()
        self._done_before = study.done()
        self._failures, self._reason = 0, ""

    def run(self, stop: Callable[[], bool]) -> str:
        """Run until the search ends. Returns the reason: see `SearchEnded.why`."""
        between = True
        while True:
            why = self._why_to_stop(stop)
            begun = [each for each in self._running if each.begun]
            if why and (between or not begun):
                return why
            # Propose before the next result is stored: the sampler must not see it yet.
            while self._may_propose():
                self._running.append(self._propose())
            waiting = [each for each in self._running if not each.begun]
            if not self._running:
                return "done"
            between = False
            if waiting and not why and self._scoring.ready:
                self._begin(waiting[0])
            elif begun and self._scoring.finished:
                self._end(self._running.pop(0))
                between = True
                if self._keeps_failing():
                    return "failing"
            else:
                self._scoring.advance(
                    more=bool(waiting) and not why, seconds=self._reports.seconds_left
                )
            if self._reports.seconds_left <= 0:
                self._reports.work_done()

    def _why_to_stop(self, stop: Callable[[], bool]) -> str:
        if stop():
            return "stopped"
        limit, elapsed = self._limits.seconds, time.perf_counter() - self._started
        return "time" if limit is not None and elapsed >= limit else ""

    def _keeps_failing(self) -> bool:
        """Raises ExciseError if no trial has a result."""
        if self._failures < _FAILURES_IN_A_ROW:
            return False
        if self._study.done() == 0:
            raise ExciseError(f"{self._failures} trials in a row failed: {self._reason}")
        return True

    def _may_propose(self) -> bool:
        running = len(self._running)
        needed = self._study.done() + running < self._limits.trials
        return needed and running < self._limits.candidates

    def _propose(self) -> _Running:
        started = time.perf_counter()
        trial = self._interrupted.pop(0) if self._interrupted else self._study.new()
        return _Running(trial, self._task.edit(trial), time.perf_counter() - started)

    def _begin(self, running: _Running) -> None:
        running.begun = True
        self._reports.emit(TrialStarted(running.trial.number, running.trial.params))
        self._scoring.begin(running.edit, self._bound())

    def _bound(self) -> Bound:
        """The bound of a trial that begins now."""
        priorities = [0.0] * self._task.prompts
        for refused in self._study.kept(_REFUSED):
            assert isinstance(refused, list)
            for row in refused:
                priorities[row] += 1
        return Bound(tuple(self._study.points()), tuple(priorities), self._limits.exhaustive)

    def _end(self, running: _Running) -> None:
        scored, seconds = self._scoring.take()
        seconds += running.seconds
        _store(self._study, running.trial, scored, seconds)
        if isinstance(scored, TrialError):
            self._failures, self._reason = self._failures + 1, str(scored)
        else:
            self._failures = 0
            if not scored.dominated:
                values = tuple(scored.values.values())
                point = Point(running.trial.number, values, self._study.objectives)
                self._scoring.learn(point)
        self._save()
        self._reports.work_done()
        self._reports.emit(self._finished(running.trial, scored, seconds))

    def _finished(
        self, trial: optuna.Trial, scored: Scored | TrialError, seconds: float
    ) -> TrialFinished:
        good = None if isinstance(scored, TrialError) else scored
        values = {each.name: None for each in self._study.objectives}
        done, elapsed = self._study.done(), time.perf_counter() - self._started
        return TrialFinished(
            number=trial.number,
            parameters=trial.params,
            values=values if good is None else good.values,
            prompts=self._task.prompts,
            dominated=good is not None and good.dominated,
            seconds=seconds,
            reason=str(scored) if isinstance(scored, TrialError) else None,
            done=done,
            trials=self._limits.trials,
            elapsed=elapsed,
            remaining=self._remaining(elapsed, done),
            peak_memory=peak_memory(devices_of(self._task.model)),
            front=tuple(pareto_front(self._study.points())),
        )

    def _remaining(self, elapsed: float, done: int) -> float | None:
        """Estimated seconds until the end of this search, from its finished trials."""
        scored, limit = done - self._done_before, self._limits.seconds
        if scored == 0:
            return None
        remaining = elapsed / scored * (self._limits.trials - done)
        return remaining if limit is None else max(0.0, min(remaining, limit - elapsed))


def _store(
    study: OptunaStudy, trial: optuna.Trial, scored: Scored | TrialError, seconds: float
) -> None:
    if isinstance(scored, TrialError):
        study.fail(trial, str(scored), seconds)
        return
    if scored.answered is not None:
        refused = [row for row, yes in enumerate(scored.answered.refused) if yes]
        study.keep(trial, _REFUSED, refused)
    if scored.dominated:
        study.prune(trial, tuple(scored.values.values()), seconds)
    else:
        study.tell(trial, tuple(scored.values.values()), seconds)
