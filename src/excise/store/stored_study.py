"""A study in a run directory, with the record and an edit file for each trial of the front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.trial import BaseTrial

from excise.edits.edit import Edit
from excise.errors import RunError, translated
from excise.search.front import Point, pareto_front
from excise.search.objective import as_json
from excise.search.study import OptunaStudy, Proposals
from excise.store.description import Origin, RunDescription
from excise.store.identity import Identity
from excise.store.journal import Journal
from excise.store.judged import JudgedFront
from excise.store.opening import OpenRun
from excise.store.outcome import Outcome, held_out_facts
from excise.store.record import chosen_before, write_result

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError, optuna.exceptions.OptunaError),
)
"""Errors that Optuna raises for JSON records that it did not write."""


@dataclass(frozen=True)
class StoredStudy:
    """A study in a locked run directory."""

    directory: OpenRun
    study: OptunaStudy
    identity: Identity
    origin: Origin

    @classmethod
    def open(
        cls, directory: OpenRun, proposals: Proposals, identity: Identity, origin: Origin
    ) -> StoredStudy:
        """The study in the directory's journal, see `open_study`."""
        return cls(directory, open_study(directory.journal, proposals), identity, origin)

    def save(self, run: RunDescription, edit: Callable[[BaseTrial], Edit]) -> None:
        """Update edit files and record from the journal. edit: makes the edit of a finished trial.

        Edits are written before the record names them and deleted after it no longer does, so that the next
        call completes an interrupted call.
        """
        front = pareto_front(self.study.points())
        chosen = chosen_before(self.directory, front)
        for point in front:
            path = self.directory.edit_path(point.number)
            if not path.exists():
                trial = self.study.finished(point.number)
                replace(
                    edit(trial),
                    parameters=dict(trial.params),
                    facts=_facts(run, point, chosen),
                    base=run.origin.base,
                    settings_digest=run.identity.settings_digest,
                ).save(path)
        reported = [trial for trial in self.study.trials() if trial.state != "running"]
        write_result(self.directory, run, reported, front)
        self.directory.keep_edits(point.number for point in front)

    def choose(self, run: RunDescription, outcome: Outcome) -> None:
        """Write the figures of the chosen trial into its edit file and the record."""
        # Before the record, which must not name figures that the edit file lacks.
        edit = self.directory.edit(outcome.trial)
        facts = {**edit.facts, **held_out_facts(outcome)}
        replace(edit, facts=facts).save(self.directory.edit_path(outcome.trial))
        front = pareto_front(self.study.points())
        write_result(self.directory, run, self.study.trials(), front, outcome)

    def record_judged(self, run: RunDescription, judged: JudgedFront) -> None:
        """Write the verdicts on the front into the record."""
        front = pareto_front(self.study.points())
        write_result(self.directory, run, self.study.trials(), front, judged=judged)


def open_study(journal: Path, proposals: Proposals) -> OptunaStudy:
    """The study in a journal, which may be new. Raises RunError for a damaged journal, SaveError."""
    with translated(RunError, f"{journal}: damaged", *_DAMAGE):
        return OptunaStudy(proposals, JournalStorage(Journal(journal)))


def _facts(run: RunDescription, point: Point, chosen: Outcome | None) -> dict[str, object]:
    """The facts of the edit file of a front trial."""
    facts: dict[str, object] = {
        "trial": point.number,
        **point.by_name,
        "prompts": run.search_prompts,
        "uncovered": dict(run.uncovered),
        "packing": run.origin.packing,
        **as_json(point.objectives),
    }
    if run.asked_with:
        facts["asked_with"] = dict(run.asked_with)
    if chosen is not None and chosen.trial == point.number:
        facts |= held_out_facts(chosen)
    return facts
