"""A run from settings: loads and measures the model, searches, measures the chosen edit and saves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from excise.anatomy.tensors import unsavable
from excise.app.events import PromptsLoaded
from excise.app.front import judge_front
from excise.app.judge import ready_judge
from excise.app.model import (
    AskedScorers,
    experiment_of,
    in_data_type,
    judge_name,
    load_model,
    prompts_of,
    save_options,
    source_of,
)
from excise.app.outcome import confirm
from excise.checkpoint.source import ModelSource
from excise.config import Settings, study_settings
from excise.edits.adapter import require_adapter
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.errors import JudgeError, ScorerError
from excise.events import Emit, Note
from excise.experiment.experiment import Experiment
from excise.experiment.settle import Settled
from excise.judges.markers import FORMER_MARKERS
from excise.models.load import LoadedModel
from excise.prompts.splits import Prompts
from excise.report.card import figures_of
from excise.rewrite.plan import require_editable
from excise.saving.adapter import save_model_adapter
from excise.saving.export import (
    require_writable,
    save_model,
)
from excise.saving.options import DescribedEdit
from excise.saving.reproduction import reproduction_of
from excise.search.front import Point, pareto_front
from excise.search.loop import never
from excise.search.study import OptunaStudy
from excise.store.description import Origin
from excise.store.directory import RunDirectory, default_path, prompts_digest
from excise.store.identity import Identity
from excise.store.judged import JudgedFront
from excise.store.opening import OpenRun, open_run
from excise.store.outcome import Outcome
from excise.store.record import settled_facts
from excise.store.stored_study import StoredStudy


@dataclass(frozen=True)
class Run:
    """A run that is ready to search. It holds the lock of its directory until it is closed."""

    settings: Settings
    loaded: LoadedModel
    experiment: Experiment
    store: StoredStudy

    @property
    def directory(self) -> OpenRun:
        """The run directory."""
        return self.store.directory

    @property
    def study(self) -> OptunaStudy:
        """The study of the run."""
        return self.store.study

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.directory.close()

    def search(self, trials: int | None = None, stop: Callable[[], bool] = never) -> None:
        """Search until the study holds `trials` trials, by default the settings' number."""
        self.experiment.search(
            trials or self.settings.trials,
            store=self.store,
            seconds=self.settings.search_seconds,
            stop=stop,
        )

    def judge_front(self) -> JudgedFront | None:
        """Judge the front again by the chosen judge, see `judge_front`. Raises JudgeError, `unjudged`."""
        try:
            return judge_front(self.experiment, self.store)
        except JudgeError as error:
            raise self.unjudged(error) from error

    def front(self) -> list[Point]:
        """The Pareto front, fewest refusals first."""
        return pareto_front(self.study.points())

    def edit(self, number: int) -> Edit:
        """The edit of a front trial. Raises RunError."""
        return self.directory.edit(number)

    def save(self, outcome: Outcome, destination: Path) -> None:
        """Write the edited model to a new folder. Raises SaveError."""
        options, emit = save_options(self.settings), self.experiment.emit
        save_model(self.loaded, self._described(outcome), destination, options, emit)

    def save_adapter(self, outcome: Outcome, destination: Path) -> None:
        """Write the edit as an adapter to a new folder. Raises SaveError."""
        options, emit = save_options(self.settings), self.experiment.emit
        save_model_adapter(self.loaded, self._described(outcome), destination, options, emit)

    def _described(self, outcome: Outcome) -> DescribedEdit:
        figures = figures_of(outcome, self.experiment.coverage.per_layer)
        source, hardware = self.loaded.source, not self.settings.no_hardware
        record = reproduction_of(self.directory, source, outcome.trial, figures, hardware=hardware)
        return DescribedEdit(self.edit(outcome.trial), figures, record)

    def choose(self, point: Point) -> Outcome:
        """Measure a trial of the front on held-out prompts and record it as the chosen trial.

        Raises JudgeError if the judge fails; the search's results are kept.
        """
        try:
            return confirm(self.experiment, self.store, point)
        except ScorerError as error:
            if isinstance(error.__cause__, JudgeError):
                raise self.unjudged(error.__cause__) from error
            raise

    def unjudged(self, error: JudgeError) -> JudgeError:
        """The failure of the judge, with what is kept and how to judge later."""
        return JudgeError(
            f"{error}; the search's results are kept in {self.directory.path}: the same command judges them "
            "later, also with another --judge"
        )


def run_path(settings: Settings) -> Path:
    """The run directory of these settings."""
    return settings.run_dir or default_path(study_settings(settings))


def in_markers_of_run(settings: Settings) -> Settings:
    """The settings, with the markers of their run directory if it is of a version with other default markers.

    Its trials were judged by these markers, and so are the ones to come.
    """
    directory = RunDirectory(run_path(settings))
    if settings.markers is not None or not directory.is_run:
        return settings
    if directory.identity().settings.get("markers") != list(FORMER_MARKERS):
        return settings
    return settings.model_copy(update={"markers": FORMER_MARKERS})


def prepare(
    settings: Settings, emit: Emit, go_on: Callable[[str], bool] = lambda question: False
) -> Run:
    """Prepare a run up to the search. Raises ExciseError for all errors that the user can fix.

    go_on: called with the reason if the model hardly shows the behaviour; returns whether to search anyway.
    """
    # Markers that an older run began with are none of the user's own.
    judge = judge_name(settings)
    settings = in_markers_of_run(settings).model_copy(update={"judge": judge})
    scorers = AskedScorers.of(settings)
    # Prompts and files are checked before the slow work on the model.
    prompts, source = prompts_of(settings), source_of(settings)
    if settings.save is not None:
        require_editable(source, settings.writers, trust_remote_code=settings.trust_remote_code)
    base = Base.of(source)
    identity = identity_of(settings, source, prompts)
    directory = open_run(run_path(settings), identity)
    try:
        for note in directory.notes:
            emit(Note(note))
        scorers = replace(scorers, judge=ready_judge(settings, directory.verdicts, emit))
        started = time.perf_counter()
        loaded, experiment = _loaded(settings, source, prompts, directory, emit, scorers)
        origin = Origin(
            base,
            loaded.packing,
            hardware=not settings.no_hardware,
            load_seconds=time.perf_counter() - started,
        )
        emit(_prompts_loaded(prompts))
        absence = experiment.search_part.absence()
        if absence is not None and not settings.allow_absent and not go_on(absence):
            experiment.require_behaviour()
        experiment.prepare_directions()
        store = StoredStudy.open(directory, experiment.proposals, identity, origin)
        return Run(settings, loaded, experiment, store)
    except BaseException:
        directory.close()
        raise


def identity_of(settings: Settings, source: ModelSource, prompts: Prompts) -> Identity:
    """The identity that a directory of this run must have."""
    return Identity.of(
        settings.model,
        study_settings(settings),
        weights=source.digest,
        prompts=prompts_digest(prompts),
    )


def known_of(directory: RunDirectory) -> tuple[str | None, Settled | None]:
    """The data type and the measured values that a run directory records; None for a new run."""
    if not directory.result.exists():
        return None, None
    record = directory.record()
    facts = settled_facts(record)
    return str(record["dtype"]), None if facts is None else Settled(**facts)


def _loaded(
    settings: Settings,
    source: ModelSource,
    prompts: Prompts,
    directory: RunDirectory,
    emit: Emit,
    scorers: AskedScorers,
) -> tuple[LoadedModel, Experiment]:
    """The model in memory and its experiment. Raises ExciseError if the model cannot be used."""
    # A resumed run keeps its data type, although today another type may be the first that works.
    dtype, known = known_of(directory)
    typed = settings if dtype is None else in_data_type(settings, dtype, source)
    loaded = load_model(typed, source, emit)
    experiment = experiment_of(settings, loaded, prompts, emit, known=known, scorers=scorers)
    coverage, anatomy = experiment.coverage, experiment.anatomy
    if not settings.allow_partial:
        coverage.require_complete()
    elif not coverage.complete:
        emit(Note(f"continuing, because allow_partial is set, although {coverage.lacking()}"))
    if settings.save is not None:
        require_writable(anatomy)
    if settings.adapter is not None:
        require_adapter(loaded.model, anatomy.writers, settings.directions)
    unsaved = next((writer for writer in anatomy.writers if not writer.tensors), None)
    if unsaved is not None:
        emit(Note(unsavable(unsaved)))
    return loaded, experiment


def _prompts_loaded(prompts: Prompts) -> PromptsLoaded:
    kinds = {"target": prompts.target, "control": prompts.control}
    return PromptsLoaded(
        counts={
            name: {part: len(getattr(parts, part)) for part in ("train", "search", "held_out")}
            for name, parts in kinds.items()
        },
        origins={name: parts.train.origin for name, parts in kinds.items()},
        notes=prompts.notes,
    )
