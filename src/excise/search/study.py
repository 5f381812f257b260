"""The study: Optuna's, in memory or in any of its storages, and resumable at any moment.

Every proposal is a function of (seed, trial number, finished trials), see `excise.search.sampler`. A resumed
study is therefore the uninterrupted one: the trial that was in hand is taken up again with the parameters it
had, or was about to get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from excise.search.front import Point
from excise.search.sampler import NumberedSampler
from excise.search.start import Parameters
from excise.undocumented import trial_id

_STUDY_NAME = "excise"
_KNOWN = "known"
"""Under this name a pruned trial keeps its refusals, at least so many, and its KL."""
DONE = ("complete", "pruned")
"""States of trials that used budget."""


@dataclass(frozen=True)
class Trial:
    """A trial as the study holds it.

    number: from 0 on. state: "complete", "pruned", "failed" or "running". parameters: by Optuna's names.
    refusals: among the target prompts of the search. kl: nats, first answer token, mean over the control
    prompts of the search. A pruned trial could not better the front that it met: its refusals are a lower
    bound, its KL is exact. Both are None unless complete or pruned; reason says why a trial failed. seconds:
    its share of what scoring took.
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


@dataclass(frozen=True)
class Proposals:
    """How a study proposes its trials.

    startup_trials: trials around the closed forms before the sampler learns; start: their parameters.
    """

    seed: int
    startup_trials: int
    start: tuple[Parameters, ...] = ()


class OptunaStudy:
    """Ask for trials, tell results; everything told is in the storage when `tell` returns."""

    def __init__(self, proposals: Proposals, storage: BaseStorage | None = None) -> None:
        """storage: None keeps the study in memory. Raises what the storage raises."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=storage,
            study_name=_STUDY_NAME,
            sampler=NumberedSampler(proposals.seed, proposals.startup_trials),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        # What trials hold is looked at now, and not in the middle of a search.
        self.trials()
        for parameters in proposals.start:
            # Already there if the study is resumed: then this adds nothing.
            self._study.enqueue_trial(dict(parameters), skip_if_exists=True)

    def in_hand(self) -> list[optuna.Trial]:
        """The trials that were in hand when the study was interrupted, in order."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [optuna.Trial(self._study, trial_id(trial)) for trial in running]

    def new(self) -> optuna.Trial:
        """A new trial, whatever is in hand."""
        return self._study.ask()

    def tell(self, trial: optuna.Trial, refusals: int, kl: float, seconds: float) -> None:
        """Store a finished trial."""
        trial.set_user_attr("seconds", seconds)
        self._study.tell(trial, [float(refusals), kl])

    def prune(self, trial: optuna.Trial, refusals: int, kl: float, seconds: float) -> None:
        """Store a trial that an earlier one equals or betters in both objectives.

        refusals: at least so many. TPE learns where it was, as of any trial that is not among the best.
        """
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr(_KNOWN, [refusals, kl])
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str, seconds: float) -> None:
        """Store a trial that could not be scored. It uses no budget."""
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def keep(self, trial: optuna.Trial, what: str, value: object) -> None:
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

    def trials(self) -> list[Trial]:
        """All trials that have started, in order."""
        return [
            _trial(trial)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state != TrialState.WAITING
        ]

    def points(self) -> list[Point]:
        """The complete trials, in order."""
        return [trial.point for trial in self.trials() if trial.point is not None]

    def done(self) -> int:
        """The number of trials that used budget: complete and pruned ones."""
        return sum(trial.state in DONE for trial in self.trials())


_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}


def _trial(trial: FrozenTrial) -> Trial:
    values = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs.get(_KNOWN)
    refusals, kl = values or (None, None)
    return Trial(
        number=trial.number,
        state=_STATES.get(trial.state, "failed"),
        parameters=dict(trial.params),
        refusals=None if refusals is None else round(refusals),
        kl=kl,
        seconds=trial.user_attrs.get("seconds"),
        reason=trial.user_attrs.get("reason"),
    )
