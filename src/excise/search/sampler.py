"""The sampler: Optuna's TPE with proposals that are functions of (seed, trial number, finished trials).

Optuna's samplers draw from a stream of random numbers, whose state is lost with a killed process.
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
"""Points that TPE compares for each proposal; the usual number in the field."""


def good_trials(trials: int, complete: int) -> int:
    """The number of trials that TPE counts as good: a tenth, at most 25, as Optuna's default.

    Only complete trials count: with a higher number, Optuna would add pruned trials.
    """
    return min(math.ceil(0.1 * trials), 25, complete)


class NumberedSampler(BaseSampler):  # type: ignore[misc]
    """Optuna's TPE, seeded by the trial's number, and for a single parameter by its name too."""

    def __init__(self, seed: int, startup_trials: int) -> None:
        self._seed, self._startup_trials = seed, startup_trials

    def _fresh(self, study: optuna.Study, *salt: int) -> TPESampler:
        complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        seed = int(np.random.SeedSequence([self._seed, *salt]).generate_state(1)[0])
        with warnings.catch_warnings():
            # `multivariate` is marked experimental, but the field uses it.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # `gamma` is deprecated since Optuna 4.9 and works up to 6.
            warnings.filterwarnings("ignore", ".*gamma.*", FutureWarning)
            return TPESampler(
                n_startup_trials=self._startup_trials,
                n_ei_candidates=_CANDIDATES,
                gamma=lambda trials: good_trials(trials, complete),
                multivariate=True,
                # Each family of kinds has its own parameters, which are sampled together.
                group=True,
                seed=seed,
            )

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that TPE proposes together."""
        space: dict[str, BaseDistribution]
        space = self._fresh(study, trial.number).infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """Parameters that are proposed together, from the finished trials."""
        proposed: dict[str, object]
        sampler = self._fresh(study, trial.number)
        # This call stores the groups that the next call needs.
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
        """A parameter that is proposed alone, as in the start-up trials."""
        sampler = self._fresh(study, trial.number, zlib.crc32(param_name.encode()))
        return sampler.sample_independent(study, trial, param_name, param_distribution)
