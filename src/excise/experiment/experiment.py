"""The experiment: a model in memory and prompts, edits and their scores, and the search for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from pydantic import FiniteFloat, PositiveFloat, PositiveInt
from torch import Tensor

from excise.edits.edit import Edit
from excise.edits.fitting import fitted_to_modules
from excise.errors import ModelError, SettingsError
from excise.events import ignore
from excise.experiment.activations import activations
from excise.experiment.bank import edit_of
from excise.experiment.build_bank import residual_directions
from excise.experiment.describe import description_of
from excise.experiment.figures import measure_edit
from excise.experiment.groups import details_of, figures_by_group
from excise.experiment.measurements import Measurements
from excise.experiment.memory import NEWER, identity_of_memory
from excise.experiment.progress import progress_bar
from excise.experiment.scores import (
    Baseline,
    PromptPart,
    Scores,
    Statistics,
)
from excise.experiment.settle import Settled
from excise.experiment.study import Study, TrialEdits
from excise.experiment.train_statistics import TrainPrompts
from excise.experiment.trial import score_all
from excise.judges.verdict import Judge
from excise.kinds import Kind, of_residuals
from excise.prompts.given import PromptLike, prompt_set
from excise.scorers.named import scorers_of
from excise.scorers.scorer import Scorer
from excise.scorers.statistics import Share
from excise.search.loop import Limits, Task, never, search
from excise.search.scoring import Bound
from excise.search.space import RIDGES, Candidate
from excise.search.study import OptunaStudy
from excise.store.description import Origin, RunDescription
from excise.store.directory import RunDirectory
from excise.store.opening import open_run
from excise.store.record import settled_facts
from excise.store.stored_study import StoredStudy
from excise.system.paths import expanded
from excise.validation import checked


class Experiment(Measurements):
    """A model and prompts: baseline, directions, edits and their scores, and the search for edits.

    Values that need passes through the model are computed on first use and stored. The model is only changed
    during a measurement.
    """

    @property
    def baseline(self) -> Baseline:
        """The original model on the target prompts of the search."""
        answered = self.search_part.answered
        refusals = Share(answered.count, len(answered))
        return Baseline(refusals, answered.refused, answered.answers)

    @cached_property
    def directions(self) -> Tensor:
        """The direction of each layer in the residual stream: [layer, d], unit vectors, float32."""
        if self.bank.residual is not None:
            return self.bank.residual.directions.clone()
        source = self._train_prompts()
        streams = source.residuals(source.target), source.residuals(source.control)
        return residual_directions(self.options, *streams).to(torch.float32)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of writers' outputs at the last token of the train prompts."""
        source = self._train_prompts()
        target, control = (
            self.runner.in_rows(partial(source.ends, prompts))
            for prompts in (source.target, source.control)
        )
        return Statistics(self.anatomy.names, target.copy(), control.copy())

    def activations(
        self, prompts: Sequence[PromptLike], positions: Sequence[int] = (-1,)
    ) -> Tensor:
        """The residual stream after each layer: [prompt, position, layer, d], float32.

        prompts: as in `Prompts.of`. positions: indices of tokens of the rendered prompt. −1 is the last
        token, from which the model predicts the first token of the answer. Raises PromptError or ModelError.
        """
        positions = checked("positions", positions, tuple[int, ...])
        given = prompt_set(prompts, "activations", self.options.system_prompt)
        tokens = self.runner.chat.encode(given.prompts)
        return activations(self.model, self.anatomy, tokens, positions)

    def edit(
        self,
        kind: Kind = "discriminant",
        strength: float = 1.0,
        *,
        components: Collection[str] | None = None,
        layers: Collection[int] | None = None,
        ridge: float = 1e-2,
        direction_index: float | None = None,
    ) -> Edit:
        """Make an edit from the train prompts, with the same strength in all edited layers.

        kind: one of `Options.kinds`. components, layers: what is edited; None for all. ridge: ρ of the
        discriminant, one of 0.001, 0.00316, 0.01, 0.0316 and 0.1. direction_index: for kinds that use
        directions of the residual stream, the fractional layer whose direction all layers use; None if each
        layer uses its own. Raises SettingsError for a kind, ridge, component, layer or direction that does
        not exist.
        """
        strength = checked("strength", strength, FiniteFloat)
        ridge = checked("ridge", ridge, FiniteFloat)
        direction_index = checked("direction_index", direction_index, FiniteFloat | None)
        components = checked("components", components, tuple[str, ...] | None)
        layers = checked("layers", layers, tuple[int, ...] | None)
        if kind not in self.options.kinds:
            known = ", ".join(self.options.kinds)
            raise SettingsError(f"kind {kind}: the experiment has {known}; see Options.kinds")
        found = [each for each in RIDGES if math.isclose(each, ridge, rel_tol=0.01)]
        if not found and not of_residuals(kind):
            known = ", ".join(f"{each:.3g}" for each in RIDGES)
            raise SettingsError(f"ridge {ridge:g}: not one of {known}")
        self._require_known("component", components, self.anatomy.matrices())
        self._require_known("layer", layers, range(len(self.anatomy.layers)))
        strengths = tuple(
            strength
            if (components is None or writer.component in components)
            and (layers is None or writer.layer in layers)
            else 0.0
            for writer in self.anatomy.writers
        )
        self._require_direction_index(kind, direction_index)
        ridge_used = None if of_residuals(kind) else found[0]
        candidate = Candidate(kind, {}, direction_index, ridge_used, strengths)
        return replace(edit_of(candidate, self.bank, self.anatomy), base=self.base)

    def score(
        self,
        edit: Edit,
        on: PromptPart = "search",
        scorers: Sequence[Scorer | str] | None = None,
    ) -> Scores:
        """Measure an edit on the prompts of the search, or on the held-out prompts.

        scorers: objects, or names of excise's; by default the objectives of a search, on held-out prompts all
        figures of a report. Named scorers count refusals by keywords on the prompts of the search, as the
        search does, and by `Options.judge` on held-out prompts; the score's title names the judge.

        Raises TrialError if the edited model's logits are not finite, ScorerError if a scorer or its judge
        fails, ModelError if the edit does not fit the model.
        """
        on = checked("on", on, PromptPart)
        edit = fitted_to_modules(edit, self.model)
        if on == "held_out":
            asked = self.reported if scorers is None else self._named(scorers, self.judge)
            scores = measure_edit(self.runner, self.held_out, edit, asked, self.options.seed)
            original = details_of(self.held_out.scores)
        else:
            asked = self.objectives if scorers is None else self._named(scorers, self.keywords)
            with self.scoring(1, edit.writers, asked) as scoring:
                (scored,) = score_all(scoring, [edit], Bound())
            if isinstance(scored, Exception):
                raise scored
            scores = {each.name: scored.scores[each.name] for each in asked}
            original = {"refusals": self.search_part.answered.refused}
        groups = figures_by_group(self.prompts, on, original, scores, self.options.seed)
        return Scores(on, scores, groups)

    def search(
        self,
        trials: int = 30,
        *,
        store: StoredStudy | str | Path | None = None,
        seconds: float | None = None,
        stop: Callable[[], bool] = never,
        progress: bool = True,
    ) -> Study:
        """Search for edits with few refusals and little KL until the study has this number of trials.

        store: a folder that keeps the study, so that a later call can continue it; None keeps it in memory.
        seconds: time limit after which no trial is proposed. stop: called between trials; True ends the
        search. progress: show a progress bar, unless the experiment has an `emit` of its own.

        Raises ModelError if the model hardly shows the behaviour, RunError if the folder belongs to another
        experiment, ExciseError if no trial can be scored.
        """
        trials = checked("trials", trials, PositiveInt)
        seconds = checked("seconds", seconds, PositiveFloat | None)
        with self._listening(progress):
            if isinstance(store, str | Path):
                with self._stored(expanded(store)) as stored:
                    return self._search(trials, stored, seconds, stop)
            return self._search(trials, store, seconds, stop)

    def describe(self, store: StoredStudy) -> RunDescription:
        """The description of this experiment in a run directory."""
        return description_of(self, store.identity, store.origin)

    def require_behaviour(self) -> None:
        """Raise ModelError if the model hardly shows the behaviour."""
        absence = self.search_part.absence()
        if absence is not None:
            raise ModelError(
                f"{absence}: there is hardly anything to remove; give other target prompts or markers, or "
                "search anyway with allow_absent (--allow-absent)"
            )

    def _search(
        self,
        trials: int,
        store: StoredStudy | None,
        seconds: float | None,
        stop: Callable[[], bool],
    ) -> Study:
        # Checks come before slow work, and the bank is not part of the first trial's time.
        if not self.options.allow_partial:
            self.coverage.require_complete()
        if not self.options.allow_absent:
            self.require_behaviour()
        _ = self.search_part, self.bank

        def save() -> None:
            if store is not None:
                store.save(self.describe(store), self.edit_of_trial)

        task = Task(self.model, len(self.search_part.target), self.edit_of_trial, self.scoring)
        limits = Limits(trials, self.candidates, seconds, self.options.exhaustive)
        study = store.study if store is not None else OptunaStudy(self.proposals)
        search(study, task, limits, self.emit, stop=stop, save=save)
        edits = TrialEdits(
            self.bank, self.anatomy, self.options.kinds, self.base, len(self.search_part.target)
        )
        return Study(tuple(study.trials()), edits)

    @contextmanager
    def _stored(self, folder: Path) -> Iterator[StoredStudy]:
        """The study in a folder; values that an earlier experiment stored there are used again."""
        identity = identity_of_memory(self.model, self.chat, self.prompts, self.options, self.base)
        if (earlier := RunDirectory(folder)).is_run:
            stored = earlier.identity().settings
            lacking = [name for name in NEWER if name not in stored]
            kept = {key: each for key, each in identity.settings.items() if key not in lacking}
            identity = identity.with_settings(kept)
        with open_run(folder, identity) as directory:
            if directory.result.exists() and not self.is_settled:
                facts = settled_facts(directory.record())
                self._known = None if facts is None else Settled(**facts)
            yield StoredStudy.open(directory, self.proposals, identity, Origin(self.base))

    def _named(self, scorers: Sequence[Scorer | str], judge: Judge) -> tuple[Scorer, ...]:
        return scorers_of(scorers, judge, self.options.scorers)

    def _train_prompts(self) -> TrainPrompts:
        return TrainPrompts.of(self.anatomy, self.runner, self.prompts)

    @contextmanager
    def _listening(self, progress: bool) -> Iterator[None]:
        if self.emit is not ignore or not progress:
            yield
            return
        with progress_bar() as self.emit:
            try:
                yield
            finally:
                self.emit = ignore

    def _require_direction_index(self, kind: Kind, given: float | None) -> None:
        last = len(self.anatomy.layers) - 1
        if given is not None and not of_residuals(kind):
            raise SettingsError(
                f"direction_index {given:g}: the kind {kind} has no shared direction"
            )
        if given is not None and not 0 <= given <= last:
            raise SettingsError(f"direction_index {given:g}: must be from 0 to {last}")

    @staticmethod
    def _require_known(
        what: str,
        given: Collection[object] | None,
        known: Collection[object] | Mapping[str, int],
    ) -> None:
        if given is not None and (wrong := [each for each in given if each not in known]):
            names = ", ".join(map(str, known))
            raise SettingsError(f"{what} {wrong[0]}: the model has {names}")
