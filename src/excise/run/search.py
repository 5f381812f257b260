"""The search loop: ask, apply, score, tell. It never writes to, copies or reloads a weight."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from excise.config import settings_digest
from excise.edit.base import Base
from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.errors import ExciseError, TrialError
from excise.run import events
from excise.run.events import Tell
from excise.run.prepare import Prepared
from excise.run.proposals import OPENINGS, Proposals
from excise.run.record import write_result
from excise.run.runner import Part, Runner
from excise.scores.openings import openings_of
from excise.scores.refusals import Refusals
from excise.search.bank import edit_of
from excise.search.front import Point, pareto_front
from excise.search.space import candidate_of
from excise.search.start import start_points
from excise.search.study import Study

_FAILURES_IN_A_ROW = 10
"""After so many failed trials the fault is not the trials'."""


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


def score(runner: Runner, edits: VirtualEdits, edit: Edit, part: Part) -> tuple[Refusals, float]:
    """Refusals and KL divergence of `edit` on one part of the prompts: a pure function of the two.

    Raises TrialError if a logit is not a number.
    """
    edits.use(edit)
    try:
        kl = part.divergence(runner)
        return runner.refusals(part.target), kl
    finally:
        edits.use(None)


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
    points = study.points()
    front = write_front(prepared, study, points)
    tell(events.SearchStarted(budget, len(points)))
    failures = done_here = 0
    why = "done"
    names = prepared.anatomy.names * settings.directions
    with VirtualEdits(prepared.loaded.model, names) as edits:
        proposals = Proposals(prepared, study, edits)
        while len(points) < budget:
            elapsed = time.perf_counter() - started
            if stop():
                why = "stopped"
                break
            if settings.search_seconds is not None and elapsed >= settings.search_seconds:
                why = "time"
                break
            trial = proposals.ask()
            trial_started = time.perf_counter()
            refusals: int | None = None
            kl: float | None = None
            reason: str | None = None
            try:
                candidate = proposals.candidate(trial)
                tell(events.TrialStarted(trial.number, trial.params))
                edit = edit_of(candidate, prepared.bank, prepared.anatomy)
                answered, kl = score(prepared.runner, edits, edit, prepared.search_part)
                refusals = answered.count
            except TrialError as error:
                reason = str(error)
            seconds = time.perf_counter() - trial_started
            if refusals is None or kl is None:
                study.fail(trial, reason or "unknown", seconds)
                failures += 1
            else:
                study.keep(trial, OPENINGS, openings_of(answered.tokens, answered.refused))
                study.tell(trial, refusals, kl, seconds)
                failures, done_here = 0, done_here + 1
            points = study.points()
            front = write_front(prepared, study, points)
            elapsed = time.perf_counter() - started
            tell(
                events.TrialFinished(
                    number=trial.number,
                    parameters=trial.params,
                    refusals=refusals,
                    prompts=len(prepared.search_part.target),
                    kl=kl,
                    seconds=seconds,
                    reason=reason,
                    done=len(points),
                    trials=budget,
                    elapsed=elapsed,
                    remaining=_remaining(
                        elapsed, done_here, budget - len(points), settings.search_seconds
                    ),
                    peak_memory=peak_memory(),
                    front=tuple(front),
                )
            )
            if failures == _FAILURES_IN_A_ROW:
                if not points:
                    raise ExciseError(f"{failures} trials in a row failed: {reason}")
                why = "failing"
                break
    tell(events.SearchEnded(why, tuple(front)))


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
