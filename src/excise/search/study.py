"""The study: Optuna's, kept in a journal file, and resumable at any moment.

Optuna's samplers draw from one stream of random numbers, which a killed process takes with it. Ours makes
every proposal a pure function of (seed, trial number, finished trials). A resumed study is then the
uninterrupted one: the trial that was in hand is taken up again with the parameters it had, or was about
to get.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from excise.errors import RunError, translated
from excise.search.front import Point
from excise.store.journal import Journal
from excise.undocumented import trial_id

_STUDY_NAME = "excise"
_KNOWN = "known"
"""Under this name a pruned trial keeps its refusals, at least so many, and its KL."""
_OF_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError, optuna.exceptions.OptunaError),
)
"""What Optuna's replay raises for records that are JSON, but not what Optuna wrote."""
_CANDIDATES = 128
"""Points that TPE weighs for each proposal; the field's number."""


def good_trials(trials: int, complete: int) -> int:
    """How many of so many trials TPE takes for the good ones: a tenth, 25 at most, as Optuna does by itself.

    Only complete ones can be: short of them, Optuna would fill up with pruned trials, however bad.
    """
    return min(math.ceil(0.1 * trials), 25, complete)


class NumberedSampler(BaseSampler):  # type: ignore[misc]
    """Optuna's TPE, seeded afresh by the trial's number, and by the parameter's name where that is alone."""

    def __init__(self, seed: int, startup_trials: int) -> None:
        self._seed, self._startup_trials = seed, startup_trials

    def _fresh(self, study: optuna.Study, *salt: int) -> TPESampler:
        complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        seed = int(np.random.SeedSequence([self._seed, *salt]).generate_state(1)[0])
        with warnings.catch_warnings():
            # `multivariate` has been marked experimental for years; it is what the field uses.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                n_startup_trials=self._startup_trials,
                n_ei_candidates=_CANDIDATES,
                gamma=lambda trials: good_trials(trials, complete),
                multivariate=True,
                # Each family of kinds has parameters of its own; those of a family are weighed together.
                group=True,
                seed=seed,
            )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are proposed together: TPE's answer."""
        space: dict[str, BaseDistribution]
        space = self._fresh(study, trial.number).infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """Parameters proposed together, from what the finished trials showed."""
        proposed: dict[str, object]
        sampler = self._fresh(study, trial.number)
        # A sampler of groups remembers them from this call to the next.
        sampler.infer_relative_search_space(study, trial)
        proposed = sampler.sample_relative(study, trial, search_space)
        return proposed

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        """One parameter by itself, whichever others the trial already has: as in the start-up trials."""
        sampler = self._fresh(study, trial.number, zlib.crc32(param_name.encode()))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


DONE = ("complete", "pruned")
"""States of trials that used budget."""


@dataclass(frozen=True)
class Record:
    """A trial as the study holds it.

    state: "complete", "pruned", "failed" or "running". A pruned trial could not better the front that it
    met: its refusals are a lower bound, its KL is exact. Both are None unless complete or pruned; reason
    says why a trial failed.
    """

    number: int
    state: str
    parameters: Mapping[str, object]
    refusals: int | None
    kl: float | None
    seconds: float | None
    reason: str | None

    @property
    def point(self) -> Point | None:
        """Its place among the objectives, if it is known whole."""
        if self.state != "complete" or self.refusals is None or self.kl is None:
            return None
        return Point(self.number, self.refusals, self.kl)


class Study:
    """Ask for trials, tell results; everything told is on disk when `tell` returns."""

    def __init__(
        self,
        journal: Path,
        *,
        seed: int,
        startup_trials: int,
        anchors: Sequence[Mapping[str, object]] = (),
    ) -> None:
        """Raises RunError if the journal is damaged, SaveError if it cannot be written."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with translated(RunError, f"{journal}: damaged", *_OF_DAMAGE):
            storage = JournalStorage(Journal(journal))
            self._study = optuna.create_study(
                storage=storage,
                study_name=_STUDY_NAME,
                sampler=NumberedSampler(seed, startup_trials),
                directions=["minimize", "minimize"],
                load_if_exists=True,
            )
            # What trials hold is looked at now, and not in the middle of a search.
            self.records()
        for anchor in anchors:
            # Already there if the study is resumed: then this adds nothing.
            self._study.enqueue_trial(dict(anchor), skip_if_exists=True)

    def in_hand(self) -> list[Trial]:
        """The trials that were in hand when the study was interrupted, in order."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Trial(self._study, trial_id(trial)) for trial in running]

    def new(self) -> Trial:
        """A new trial, whatever is in hand."""
        return self._study.ask()

    def tell(self, trial: Trial, refusals: int, kl: float, seconds: float) -> None:
        """Store a finished trial."""
        trial.set_user_attr("seconds", seconds)
        self._study.tell(trial, [float(refusals), kl])

    def prune(self, trial: Trial, refusals: int, kl: float, seconds: float) -> None:
        """Store a trial that an earlier one equals or betters in both objectives.

        refusals: at least so many. TPE learns where it was, as of any trial that is not among the best.
        """
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr(_KNOWN, [refusals, kl])
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str, seconds: float) -> None:
        """Store a trial that could not be scored. It uses no budget."""
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def keep(self, trial: Trial, what: str, value: object) -> None:
        """Keep something of a trial beside its parameters; it has to be plain JSON."""
        trial.set_user_attr(what, value)

    def kept(self, what: str) -> list[object]:
        """What complete and pruned trials kept under this name, in order."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [trial.user_attrs[what] for trial in trials if what in trial.user_attrs]

    def finished(self, number: int) -> FrozenTrial:
        """A trial as it is stored, to be proposed again: it gives the parameters it had."""
        return self._study.get_trials(deepcopy=False)[number]

    def records(self) -> list[Record]:
        """All trials that have started, in order."""
        return [
            _record(trial)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state != TrialState.WAITING
        ]

    def points(self) -> list[Point]:
        """The complete trials, in order."""
        return [record.point for record in self.records() if record.point is not None]

    def done(self) -> int:
        """The number of trials that used budget: complete and pruned ones."""
        return sum(record.state in DONE for record in self.records())


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}


def _record(trial: FrozenTrial) -> Record:
    values = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs.get(_KNOWN)
    refusals, kl = values or (None, None)
    return Record(
        number=trial.number,
        state=_STATES.get(trial.state, "failed"),
        parameters=dict(trial.params),
        refusals=None if refusals is None else round(refusals),
        kl=kl,
        seconds=trial.user_attrs.get("seconds"),
        reason=trial.user_attrs.get("reason"),
    )
