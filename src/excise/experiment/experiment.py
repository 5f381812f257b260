"""The experiment: a model in memory and prompts, edits and their scores, and the search for them."""

from __future__ import annotations

from collections.abc import Callable

from excise.errors import ModelError
from excise.experiment.describe import description_of
from excise.experiment.measurements import Measurements
from excise.search.loop import Limits, Objective, search
from excise.search.study import OptunaStudy
from excise.store.description import RunDescription
from excise.store.stored_study import StoredStudy


class Experiment(Measurements):
    """A model and prompts: what the model does, the directions in it, edits and their scores."""

    def search(
        self,
        trials: int = 30,
        *,
        store: StoredStudy | None = None,
        seconds: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Search for edits with few refusals and little KL, until the study holds `trials`.

        store: where the study is kept, by default in memory. seconds: no trial is proposed after so many.
        stop: asked between trials. Raises ModelError if the model hardly shows the behaviour, ExciseError if
        no trial can be scored.
        """
        if not self.options.allow_absent:
            self.require_behaviour()

        def save() -> None:
            if store is not None:
                store.save(self.describe(store), self.edit_of_trial)

        objective = Objective(
            self.model, len(self.search_part.target), self.edit_of_trial, self.scoring
        )
        limits = Limits(trials, self.candidates, seconds, self.options.exhaustive)
        study = store.study if store is not None else OptunaStudy(self.proposals)
        search(study, objective, limits, self.emit, stop=stop, save=save)

    def describe(self, store: StoredStudy) -> RunDescription:
        """What is written of this experiment into a run directory."""
        return description_of(self, store.identity, store.origin)

    def require_behaviour(self) -> None:
        """Raise ModelError if there is next to nothing to remove."""
        absence = self.search_part.absence()
        if absence is not None:
            raise ModelError(
                f"{absence}: there is hardly anything to remove; give other target prompts or markers, or "
                "search all the same with --allow-absent"
            )
