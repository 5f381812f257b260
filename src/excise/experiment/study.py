"""The result of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from excise.edits.edit import Edit
from excise.errors import SettingsError
from excise.search.front import Point, pareto_front, select
from excise.search.study import Trial

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Study:
    """The trials of a search. trials: all that have started, in order."""

    trials: tuple[Trial, ...]
    _edit_of: Callable[[Trial], Edit] = field(repr=False, compare=False)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other trial equals or betters in both objectives, fewest refusals first."""
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
        elif isinstance(trial, int):
            if not 0 <= trial < len(self.trials):
                raise SettingsError(f"trial {trial}: the study has {len(self.trials)} trials")
            trial = self.trials[trial]
        return self._edit_of(trial)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each trial, a column for each parameter. Raises ImportError without pandas."""
        import pandas

        rows = [
            {
                "number": trial.number,
                "state": trial.state,
                "refusals": trial.refusals,
                "kl": trial.kl,
                "seconds": trial.seconds,
                **trial.parameters,
            }
            for trial in self.trials
        ]
        return pandas.DataFrame(rows).set_index("number")

    def _points(self) -> Sequence[Point]:
        return pareto_front([trial.point for trial in self.trials if trial.point is not None])
