"""The search loop: ask, score, tell. It never writes to, copies or reloads a weight."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from optuna.trial import Trial

from excise.config import settings_digest
from excise.edit.base import Base
from excise.edit.virtual import VirtualEdits
from excise.engine.answers import end_tokens
from excise.engine.meter import ended_early
from excise.errors import ExciseError, TrialError
from excise.run import events
from excise.run.events import Tell
from excise.run.metering import Metering
from excise.run.prepare import Prepared
from excise.run.proposals import OPENINGS, Proposals
from excise.run.record import write_result
from excise.run.trial import Contest, Scored, score
from excise.scores.openings import openings_of
from excise.search.bank import edit_of
from excise.search.front import Point, pareto_front
from excise.search.space import candidate_of
from excise.search.start import start_points
from excise.search.study import Study

_FAILURES_IN_A_ROW = 10
"""After so many failed trials the fault is not the trials'."""
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
    tell: Tell,
    *,
    trials: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Score trials until the study holds `trials` (by default the settings') or `stop()` says so.

    Failed trials use no budget. If trials keep failing the search ends with what it has; raises
    ExciseError, with the reason, if that is nothing.
    """
    settings = prepared.settings
    budget = trials or settings.trials
    started = time.perf_counter()
    before = done = study.done()
    front = write_front(prepared, study, study.points())
    tell(events.SearchStarted(budget, done))
    failures = 0
    why = "done"
    names = prepared.anatomy.names * settings.directions
    model = prepared.loaded.model
    with (
        VirtualEdits(model, names) as edits,
        Metering(prepared.loaded, prepared.anatomy, tell) as meter,
    ):
        proposals = Proposals(prepared, study, edits)
        while done < budget:
            elapsed = time.perf_counter() - started
            if stop():
                why = "stopped"
                break
            if settings.search_seconds is not None and elapsed >= settings.search_seconds:
                why = "time"
                break
            batch = proposals.ask(min(prepared.candidates, budget - done))
            batch_started = time.perf_counter()
            candidates = list(batch.told)
            broken: TrialError | None = None
            try:
                with meter.stage("proposal"):
                    for trial in batch.trials:
                        candidates.append(proposals.candidate(trial))
                        tell(events.TrialStarted(trial.number, trial.params))
            except TrialError as error:
                # A descent that ran into logits that are no numbers: by gradients a batch is one trial.
                broken = error
            meter.candidates = len(candidates)
            scores: list[Scored | TrialError] = [broken] if broken is not None else []
            if broken is None:
                scores = score(
                    prepared.runner,
                    edits,
                    [edit_of(one, prepared.bank, prepared.anatomy) for one in candidates],
                    prepared.search_part,
                    _contest(prepared, study, batch.first),
                    meter.stage,
                )[len(batch.told) :]
            seconds = (time.perf_counter() - batch_started) / len(scores)
            for trial, scored in zip(batch.trials, scores, strict=True):
                _store(study, trial, scored, seconds)
                if isinstance(scored, TrialError):
                    failures += 1
                    continue
                failures = 0
                if scored.answered is not None:
                    meter.ended_early(
                        ended_early(
                            scored.answered.tokens, end_tokens(model), settings.max_new_tokens
                        )
                    )
            done = study.done()
            front = write_front(prepared, study, study.points())
            elapsed = time.perf_counter() - started
            meter.tell()
            remaining = _remaining(elapsed, done - before, budget - done, settings.search_seconds)
            for trial, scored in zip(batch.trials, scores, strict=True):
                good = None if isinstance(scored, TrialError) else scored
                tell(
                    events.TrialFinished(
                        number=trial.number,
                        parameters=trial.params,
                        refusals=None if good is None else good.refusals,
                        prompts=len(prepared.search_part.target),
                        kl=None if good is None else good.kl,
                        dominated=good is not None and good.dominated,
                        seconds=seconds,
                        reason=str(scored) if isinstance(scored, TrialError) else None,
                        done=done,
                        trials=budget,
                        elapsed=elapsed,
                        remaining=remaining,
                        peak_memory=peak_memory(),
                        front=tuple(front),
                    )
                )
            if failures >= _FAILURES_IN_A_ROW:
                if done == 0:
                    raise ExciseError(f"{failures} trials in a row failed: {scores[-1]}")
                why = "failing"
                break
    tell(events.SearchEnded(why, tuple(front)))


def _contest(prepared: Prepared, study: Study, first: int) -> Contest:
    """What the batch that begins with trial `first` has to beat."""
    urgency = [0.0] * len(prepared.search_part.target)
    for refused in study.kept(_REFUSED, first):
        assert isinstance(refused, list)
        for row in refused:
            urgency[row] += 1
    return Contest(
        to_beat=tuple(point for point in study.points() if point.number < first),
        urgency=tuple(urgency),
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
    study.keep(trial, OPENINGS, openings_of(answered.tokens, answered.refused))
    study.tell(trial, scored.refusals, scored.kl, seconds)


def write_front(prepared: Prepared, study: Study, points: list[Point]) -> list[Point]:
    """Bring the run directory up to date: an edit file for each front trial, and the record."""
    front = pareto_front(points)
    directory = prepared.directory
    records = {record.number: record for record in study.records()}
    for point in front:
        path = directory.edit_path(point.number)
        if not path.exists():
            trial = study.finished(point.number)
            edit = edit_of(
                candidate_of(trial, prepared.settings.kinds, prepared.anatomy),
                prepared.bank,
                prepared.anatomy,
            )
            facts = {
                "trial": point.number,
                "refusals": point.refusals,
                "kl": point.kl,
                "prompts": len(prepared.search_part.target),
                "uncovered": dict(prepared.coverage.suspects),
                "packing": prepared.loaded.packing,
            }
            parameters = dict(records[point.number].parameters)
            replace(
                edit,
                parameters=parameters,
                facts=facts,
                base=Base.of(prepared.loaded.source),
                settings_digest=settings_digest(prepared.settings),
            ).save(path)
    # The record first: it must never name an edit that is gone.
    write_result(prepared, list(records.values()), front)
    directory.keep_edits(point.number for point in front)
    return front


def _remaining(elapsed: float, done: int, left: int, limit: float | None) -> float | None:
    if done == 0:
        return None
    remaining = elapsed / done * left
    return remaining if limit is None else max(0.0, min(remaining, limit - elapsed))


def peak_memory() -> int:
    """Most memory the process has held so far, in bytes: on the accelerator if there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
