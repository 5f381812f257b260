"""The sampler: Optuna's TPE, each of whose proposals is a function of (seed, trial number, finished trials).

Optuna's samplers draw from one stream of random numbers, which a killed process takes with it.
"""

from __future__ import annotations

import math
import warnings
import zlib

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

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
            # `gamma` is deprecated since Optuna 4.9 and works up to 6.
            warnings.filterwarnings("ignore", ".*gamma.*", FutureWarning)
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
