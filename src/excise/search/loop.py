"""The search loop: ask, score, tell. It never writes to, copies or reloads a weight."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import Trial

from excise.app.prepare import Prepared
from excise.devices.memory import devices_of, peak_memory
from excise.edits.virtual import VirtualEdits
from excise.engine.tokens import TokenCounter
from excise.errors import ExciseError, TrialError
from excise.events import Emit
from excise.experiment.bank import edit_of
from excise.experiment.trial import Bound, Scored, Scoring
from excise.search.events import SearchEnded, SearchStarted, TrialFinished, TrialStarted, WorkDone
from excise.search.front import Point
from excise.search.space import Candidate, propose
from excise.search.start import start_points
from excise.search.study import Study
from excise.store.front import write_front

_FAILURES_IN_A_ROW = 10
"""After so many failed trials the fault is not the trials'."""
_REPORT_SECONDS = 2.0
"""How often tokens a second are told while a trial is scored."""
_REFUSED = "refused"
"""Under this name a trial keeps which target prompts were certainly refused."""


def open_study(prepared: Prepared) -> Study:
    """The study in the run directory, new or as it was left."""
    settings = prepared.settings
    return Study(
        prepared.directory.journal,
        seed=settings.seed,
        startup_trials=settings.startup_trials,
        anchors=start_points(
            settings.kinds, prepared.anatomy, settings.startup_trials, settings.seed
        ),
    )


def search(
    prepared: Prepared,
    study: Study,
    emit: Emit,
    *,
    trials: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Score trials until the study holds `trials` (by default the settings') or `stop()` says so.

    Several are in hand at a time. When the search is to stop, the first of them comes to its end, and the
    others stay in hand for the next time. Failed trials use no budget. If trials keep failing the search
    ends with what it has; raises ExciseError, with the reason, if that is nothing.
    """
    front = write_front(prepared, study, study.points())
    emit(SearchStarted(trials or prepared.settings.trials, study.done()))
    model = prepared.loaded.model
    names = prepared.anatomy.names * prepared.settings.directions
    with (
        VirtualEdits(model, names) as edits,
        TokenCounter(model) as tokens,
    ):
        loop = _Loop(prepared, study, emit, edits, tokens, trials or prepared.settings.trials)
        why = loop.run(stop)
        front = loop.front or front
    emit(SearchEnded(why, tuple(front)))


@dataclass
class _InHand:
    """A trial that is proposed and has no result yet. seconds: what the proposal took."""

    trial: Trial
    candidate: Candidate
    seconds: float
    begun: bool = False


class _Loop:
    """The search while it runs.

    `Prepared.candidates` trials are in hand at a time: trial n is proposed when exactly the trials up to
    n − candidates have results, however long each of them takes. A search is therefore the same whether it
    waits for every verdict or not. (Trials that are proposed after a restart know of all before them.) The
    journal of an interrupted study holds the trials that were in hand; they come first.
    """

    def __init__(
        self,
        prepared: Prepared,
        study: Study,
        emit: Emit,
        edits: VirtualEdits,
        tokens: TokenCounter,
        budget: int,
    ) -> None:
        self._prepared, self._study, self._emit = prepared, study, emit
        self._tokens, self._budget = tokens, budget
        self._interrupted = study.in_hand()
        self._scoring = Scoring(prepared.runner, edits, prepared.search_part, prepared.candidates)
        self._in_hand: list[_InHand] = []
        self._started = self._reported = time.perf_counter()
        self._done_before = study.done()
        self._failures, self._reason = 0, ""
        self.front: list[Point] = []

    def run(self, stop: Callable[[], bool]) -> str:
        """Go on to the end; returns why it is the end."""
        between = True
        while True:
            why = self._why_to_stop(stop)
            begun = [one for one in self._in_hand if one.begun]
            if why and (between or not begun):
                return why
            # What is told next decides what the trials behind know: first those are proposed that may not.
            while self._may_propose():
                self._in_hand.append(self._propose())
            waiting = [one for one in self._in_hand if not one.begun]
            if not self._in_hand:
                return "done"
            if waiting and not why and self._scoring.ready:
                self._begin(waiting[0])
                between = False
            elif begun and self._scoring.finished:
                self._end(self._in_hand.pop(0))
                between = True
                if self._failures >= _FAILURES_IN_A_ROW:
                    if self._study.done() == 0:
                        raise ExciseError(
                            f"{self._failures} trials in a row failed: {self._reason}"
                        )
                    return "failing"
            else:
                self._scoring.advance(
                    more=bool(waiting) and not why, seconds=self._seconds_to_report()
                )
                between = False
            if self._seconds_to_report() <= 0:
                self._report_work()

    def _why_to_stop(self, stop: Callable[[], bool]) -> str:
        if stop():
            return "stopped"
        limit = self._prepared.settings.search_seconds
        elapsed = time.perf_counter() - self._started
        return "time" if limit is not None and elapsed >= limit else ""

    def _may_propose(self) -> bool:
        in_hand = len(self._in_hand)
        return in_hand < self._prepared.candidates and self._study.done() + in_hand < self._budget

    def _propose(self) -> _InHand:
        started = time.perf_counter()
        prepared = self._prepared
        trial = self._interrupted.pop(0) if self._interrupted else self._study.new()
        candidate = propose(trial, prepared.settings.kinds, prepared.anatomy)
        return _InHand(trial, candidate, time.perf_counter() - started)

    def _begin(self, one: _InHand) -> None:
        one.begun = True
        self._emit(TrialStarted(one.trial.number, one.trial.params))
        prepared = self._prepared
        edit = edit_of(one.candidate, prepared.bank, prepared.anatomy)
        self._scoring.begin(edit, _bound(prepared, self._study))

    def _end(self, one: _InHand) -> None:
        scored, seconds = self._scoring.take()
        seconds += one.seconds
        _store(self._study, one.trial, scored, seconds)
        if isinstance(scored, TrialError):
            self._failures, self._reason = self._failures + 1, str(scored)
        else:
            self._failures = 0
            self._learn(one.trial.number, scored)
        self.front = write_front(self._prepared, self._study, self._study.points())
        self._report_work()
        self._tell_finished(one.trial, scored, seconds)

    def _learn(self, number: int, scored: Scored) -> None:
        if not scored.dominated:
            self._scoring.learn(Point(number, scored.refusals, scored.kl))

    def _seconds_to_report(self) -> float:
        return self._reported + _REPORT_SECONDS - time.perf_counter()

    def _report_work(self) -> None:
        now = time.perf_counter()
        self._emit(
            WorkDone(
                tokens=self._tokens.take(),
                seconds=now - self._reported,
                candidates=len(self._scoring),
                prompts=self._scoring.prompts,
            )
        )
        self._reported = now

    def _tell_finished(self, trial: Trial, scored: Scored | TrialError, seconds: float) -> None:
        good = None if isinstance(scored, TrialError) else scored
        done, elapsed = self._study.done(), time.perf_counter() - self._started
        limit = self._prepared.settings.search_seconds
        self._emit(
            TrialFinished(
                number=trial.number,
                parameters=trial.params,
                refusals=None if good is None else good.refusals,
                prompts=len(self._prepared.search_part.target),
                kl=None if good is None else good.kl,
                dominated=good is not None and good.dominated,
                seconds=seconds,
                reason=str(scored) if isinstance(scored, TrialError) else None,
                done=done,
                trials=self._budget,
                elapsed=elapsed,
                remaining=_remaining(elapsed, done - self._done_before, self._budget - done, limit),
                peak_memory=peak_memory(devices_of(self._prepared.loaded.model)),
                front=tuple(self.front),
            )
        )


def _bound(prepared: Prepared, study: Study) -> Bound:
    """What a trial that begins now has to beat."""
    priorities = [0.0] * len(prepared.search_part.target)
    for refused in study.kept(_REFUSED):
        assert isinstance(refused, list)
        for row in refused:
            priorities[row] += 1
    return Bound(
        points=tuple(study.points()),
        priorities=tuple(priorities),
        exhaustive=prepared.settings.exhaustive,
    )


def _store(study: Study, trial: Trial, scored: Scored | TrialError, seconds: float) -> None:
    if isinstance(scored, TrialError):
        study.fail(trial, str(scored), seconds)
        return
    answered = scored.answered
    if answered is not None:
        refused = [row for row, yes in enumerate(answered.refused) if yes]
        study.keep(trial, _REFUSED, refused)
    if scored.dominated:
        study.prune(trial, scored.refusals, scored.kl, seconds)
        return
    assert answered is not None
    study.tell(trial, scored.refusals, scored.kl, seconds)


def _remaining(elapsed: float, done: int, left: int, limit: float | None) -> float | None:
    if done == 0:
        return None
    remaining = elapsed / done * left
    return remaining if limit is None else max(0.0, min(remaining, limit - elapsed))
