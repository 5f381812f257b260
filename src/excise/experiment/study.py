"""The result of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import TYPE_CHECKING

from optuna.trial import FixedTrial

from excise.anatomy.writers import Anatomy
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.errors import SettingsError, translated
from excise.experiment.bank import Bank, edit_of
from excise.kinds import Kind
from excise.search.front import Point, pareto_front
from excise.search.objective import as_json
from excise.search.select import select
from excise.search.space import propose
from excise.search.study import Trial

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class TrialEdits:
    """Makes the edits of trials. It does not hold the model, so that a study does not keep it in memory.

    prompts: number of target prompts of the search.
    """

    bank: Bank
    anatomy: Anatomy
    kinds: tuple[Kind, ...]
    base: Base | None
    prompts: int

    def __call__(self, trial: Trial) -> Edit:
        """The edit of a trial. Raises SettingsError for a trial that was not completely proposed."""
        parameters = dict(trial.parameters)
        with translated(SettingsError, f"trial {trial.number}: has no edit", ValueError):
            candidate = propose(FixedTrial(parameters), self.kinds, self.anatomy)
        facts: dict[str, object] = {
            "trial": trial.number,
            **trial.values,
            "prompts": self.prompts,
            **as_json(trial.objectives),
        }
        edit = edit_of(candidate, self.bank, self.anatomy)
        return replace(edit, parameters=parameters, facts=facts, base=self.base)


@dataclass(frozen=True)
class Study:
    """The trials of a search. trials: all that have started, in order."""

    trials: tuple[Trial, ...]
    _edit_of: Callable[[Trial], Edit] = field(repr=False, compare=False)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other trial equals or betters in all objectives, in the order of the first."""
        return tuple(self.trials[point.number] for point in self._points())

    def best(self, rule: str = "knee") -> Trial:
        """The trial of the front that a rule names: knee, fewest, a number, "refusals<=5" or "kl<=0.1".

        Raises SettingsError if the front is empty, or no trial of it fits.
        """
        return self.trials[select(self._points(), rule).number]

    def edit(self, trial: Trial | int | None = None) -> Edit:
        """The edit of a trial, or of the trial of that number; by default of the knee.

        Raises SettingsError if there is no such trial.
        """
        if trial is None:
            trial = self.best()
        elif not isinstance(trial, Trial):
            # A table's numbers are of NumPy.
            number = index(trial)
            if not 0 <= number < len(self.trials):
                raise SettingsError(f"trial {number}: the study has {len(self.trials)} trials")
            trial = self.trials[number]
        return self._edit_of(trial)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each trial, a column for each parameter. Raises ImportError without pandas."""
        import pandas

        rows = [
            {
                "state": trial.state,
                **{each.name: trial.values.get(each.name) for each in trial.objectives},
                "seconds": trial.seconds,
                **trial.parameters,
            }
            for trial in self.trials
        ]
        numbers = pandas.Index([trial.number for trial in self.trials], name="number")
        return pandas.DataFrame(rows, index=numbers)

    def _points(self) -> Sequence[Point]:
        return pareto_front([trial.point for trial in self.trials if trial.point is not None])
