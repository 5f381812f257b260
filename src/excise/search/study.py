"""The study: an Optuna study in memory or in a storage, from which it can be resumed at any moment.

Every proposal is a function of (seed, trial number, finished trials), see `excise.search.sampler`. A resumed
study therefore equals the uninterrupted study: running trials resume with the parameters that they had, or
would have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from excise.search.front import Point
from excise.search.objective import DEFAULT, Objectives
from excise.search.sampler import NumberedSampler
from excise.search.start import Parameters
from excise.undocumented import trial_id

_STUDY_NAME = "excise"
_KNOWN = "known"
"""Attribute of a pruned trial: the bounds of its values."""
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
}
DONE = ("complete", "pruned")
"""States of trials that used budget."""


@dataclass(frozen=True)
class Trial:
    """A trial of the study.

    number: from 0 on. state: "complete", "pruned", "failed" or "running". parameters: by Optuna's names.
    values: of each objective, on the prompts of the search; empty for other states. A pruned trial is
    dominated: its values are bounds, and those that were measured before its answers are exact. reason: of a
    failure. seconds: the trial's share of the scoring time.
    """

    number: int
    state: str
    parameters: Mapping[str, object]
    values: Mapping[str, float]
    seconds: float | None
    reason: str | None
    objectives: Objectives = field(default=DEFAULT, repr=False)

    @property
    def refusals(self) -> int | None:
        """The refused target prompts; None if they are no objective, or the trial has no values."""
        found = self.values.get("refusals")
        return None if found is None else round(found)

    @property
    def kl(self) -> float | None:
        """KL of the first answer token, nats, mean over control prompts; None as `refusals`."""
        return self.values.get("kl")

    @property
    def point(self) -> Point | None:
        """The values of a complete trial, else None."""
        if self.state != "complete" or not self.values:
            return None
        return Point(self.number, tuple(self.values.values()), self.objectives)

    def as_json(self) -> dict[str, object]:
        """The trial, with the value of each objective under its name, null if it has none."""
        values = {each.name: self.values.get(each.name) for each in self.objectives}
        return {
            "number": self.number,
            "state": self.state,
            "parameters": dict(self.parameters),
            **values,
            "seconds": self.seconds,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Proposals:
    """The proposals of a study.

    startup_trials: trials before the sampler uses earlier trials; start: their parameters. objectives: what
    the proposals are to improve.
    """

    seed: int
    startup_trials: int
    start: tuple[Parameters, ...] = ()
    objectives: Objectives = DEFAULT


class OptunaStudy:
    """Optuna's ask and tell; a result is in the storage when `tell` returns."""

    def __init__(self, proposals: Proposals, storage: BaseStorage | None = None) -> None:
        """storage: None keeps the study in memory. Raises what the storage raises."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = proposals.objectives
        self._study = optuna.create_study(
            storage=storage,
            study_name=_STUDY_NAME,
            sampler=NumberedSampler(proposals.seed, proposals.startup_trials),
            directions=["minimize"] * len(self.objectives),
            load_if_exists=True,
        )
        # An invalid trial in the storage raises now, not in the middle of a search.
        self.trials()
        for parameters in proposals.start:
            # A resumed study already holds them.
            self._study.enqueue_trial(dict(parameters), skip_if_exists=True)

    def running(self) -> list[optuna.Trial]:
        """The running trials of an interrupted study, in order."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [optuna.Trial(self._study, trial_id(trial)) for trial in running]

    def new(self) -> optuna.Trial:
        """A new trial."""
        return self._study.ask()

    def tell(self, trial: optuna.Trial, values: Sequence[float], seconds: float) -> None:
        """Store a finished trial. values: of each objective."""
        trial.set_user_attr("seconds", seconds)
        pairs = zip(self.objectives, values, strict=True)
        self._study.tell(trial, [float(objective.cost(value)) for objective, value in pairs])

    def prune(self, trial: optuna.Trial, values: Sequence[float], seconds: float) -> None:
        """Store a dominated trial, from which TPE learns too. values: bounds."""
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr(_KNOWN, list(values))
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str, seconds: float) -> None:
        """Store a trial that could not be scored. It uses no budget."""
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def keep(self, trial: optuna.Trial, name: str, value: object) -> None:
        """Store an attribute of a trial, as a plain JSON value."""
        trial.set_user_attr(name, value)

    def kept(self, name: str) -> list[object]:
        """The attributes of this name of complete and pruned trials, in order."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [trial.user_attrs[name] for trial in trials if name in trial.user_attrs]

    def finished(self, number: int) -> FrozenTrial:
        """The stored trial of this number, which suggests its own parameters."""
        return self._study.get_trials(deepcopy=False)[number]

    def trials(self) -> list[Trial]:
        """All trials that have started, in order."""
        return [
            self._trial(trial)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state != TrialState.WAITING
        ]

    def points(self) -> list[Point]:
        """The complete trials, in order."""
        return [trial.point for trial in self.trials() if trial.point is not None]

    def done(self) -> int:
        """The number of trials that used budget: complete and pruned ones."""
        return sum(trial.state in DONE for trial in self.trials())

    def _trial(self, trial: FrozenTrial) -> Trial:
        if trial.state == TrialState.COMPLETE:
            pairs = zip(self.objectives, trial.values, strict=True)
            values = [objective.value(cost) for objective, cost in pairs]
        else:
            values = trial.user_attrs.get(_KNOWN, [])
        names = [objective.name for objective in self.objectives]
        return Trial(
            number=trial.number,
            state=_STATES.get(trial.state, "failed"),
            parameters=dict(trial.params),
            values=dict(zip(names, values, strict=True)) if values else {},
            seconds=trial.user_attrs.get("seconds"),
            reason=trial.user_attrs.get("reason"),
            objectives=self.objectives,
        )
