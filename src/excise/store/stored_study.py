"""A study in a run directory: after every trial, the record and an edit file for each trial of the front."""

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
from excise.search.study import OptunaStudy, Proposals
from excise.store.description import Origin, RunDescription
from excise.store.identity import Identity
from excise.store.journal import Journal
from excise.store.opening import OpenRun
from excise.store.outcome import Outcome, held_out_facts
from excise.store.record import chosen_before, write_result

_OF_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError, optuna.exceptions.OptunaError),
)
"""What Optuna's replay raises for records that are JSON, but not what Optuna wrote."""


@dataclass(frozen=True)
class StoredStudy:
    """A study whose run directory this process holds."""

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
        """Bring the run directory up to date. edit: makes the edit of a finished trial.

        The journal is ahead of what is written here. Interrupted at any point, the next call makes what is
        missing: edits are written before the record names them, and deleted once it does not.
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
        told = [trial for trial in self.study.trials() if trial.state != "running"]
        write_result(self.directory, run, told, front)
        self.directory.keep_edits(point.number for point in front)

    def choose(self, run: RunDescription, outcome: Outcome) -> None:
        """Put the chosen trial, and what was measured of it, into its edit file and the record."""
        # The edit file travels without the run directory, and its figures with it. It is written before the
        # record says that they are known.
        edit = self.directory.edit(outcome.trial)
        facts = {**edit.facts, **held_out_facts(outcome)}
        replace(edit, facts=facts).save(self.directory.edit_path(outcome.trial))
        front = pareto_front(self.study.points())
        write_result(self.directory, run, self.study.trials(), front, outcome)


def open_study(journal: Path, proposals: Proposals) -> OptunaStudy:
    """The study in a journal, new or as it was left.

    Raises RunError if the journal is damaged, SaveError if it cannot be written.
    """
    with translated(RunError, f"{journal}: damaged", *_OF_DAMAGE):
        return OptunaStudy(proposals, JournalStorage(Journal(journal)))


def _facts(run: RunDescription, point: Point, chosen: Outcome | None) -> dict[str, object]:
    """The facts of the edit file of a front trial."""
    facts: dict[str, object] = {
        "trial": point.number,
        "refusals": point.refusals,
        "kl": point.kl,
        "prompts": run.search_prompts,
        "uncovered": dict(run.uncovered),
        "packing": run.origin.packing,
    }
    if run.asked_with:
        facts["asked_with"] = dict(run.asked_with)
    if chosen is not None and chosen.trial == point.number:
        facts |= held_out_facts(chosen)
    return facts
