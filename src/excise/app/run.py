"""A run from settings: model, coverage, prompts, baseline and directions, then the search and the choice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from excise.anatomy.tensors import unsavable
from excise.app.events import PromptsLoaded
from excise.app.model import experiment_of, in_data_type, load_model
from excise.app.outcome import confirm
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings, study_settings
from excise.config.prompt_sources import prompt_sources
from excise.edits.adapter import require_adapter
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.events import Emit, Note
from excise.experiment.experiment import Experiment
from excise.experiment.settle import Settled
from excise.models.load import LoadedModel
from excise.prompts.load import load_parts
from excise.prompts.splits import Parts, Prompts
from excise.saving.export import require_rewritable, require_writable
from excise.search.front import Point, pareto_front
from excise.search.loop import never
from excise.search.study import OptunaStudy
from excise.store.description import Origin
from excise.store.directory import RunDirectory, default_path, prompts_digest
from excise.store.identity import Identity
from excise.store.opening import OpenRun, open_run
from excise.store.outcome import Outcome
from excise.store.record import settled_facts
from excise.store.stored_study import StoredStudy


@dataclass(frozen=True)
class Run:
    """A run that is ready to search. Its directory is this process's alone until it is closed."""

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
        """The study in it."""
        return self.store.study

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.directory.close()

    def search(self, trials: int | None = None, stop: Callable[[], bool] = never) -> None:
        """Search until the study holds `trials`, by default the settings'."""
        self.experiment.search(
            trials or self.settings.trials,
            store=self.store,
            seconds=self.settings.search_seconds,
            stop=stop,
        )

    def front(self) -> list[Point]:
        """The best trade-offs, fewest refusals first."""
        return pareto_front(self.study.points())

    def edit(self, number: int) -> Edit:
        """The edit of a front trial. Raises RunError."""
        return self.directory.edit(number)

    def choose(self, point: Point) -> Outcome:
        """Measure a trial of the front on held-out prompts and record it as the chosen one."""
        return confirm(self.experiment, self.store, point)


def run_path(settings: Settings) -> Path:
    """Where the run of these settings is kept."""
    return settings.run_dir or default_path(study_settings(settings))


def prepare(
    settings: Settings, emit: Emit, go_on: Callable[[str], bool] = lambda question: False
) -> Run:
    """Everything of a run up to the search. Raises ExciseError for whatever the user can mend.

    go_on: asked, with the reason, whether to search although the model hardly shows the behaviour.
    """
    # What can fail on the user's side fails before minutes are spent on the model.
    prompts = load_parts(prompt_sources(settings))
    source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    if settings.save is not None:
        require_rewritable(source, settings.writers, trust_remote_code=settings.trust_remote_code)
    # What every edit file says of its model, read here once.
    Base.of(source)
    identity = identity_of(settings, source, prompts)
    directory = open_run(run_path(settings), identity)
    try:
        for mended in directory.notes:
            emit(Note(mended))
        started = time.perf_counter()
        loaded, experiment = _loaded(settings, source, prompts, directory, emit)
        origin = Origin(
            Base.of(source),
            loaded.packing,
            hardware=not settings.no_hardware,
            load_seconds=time.perf_counter() - started,
        )
        emit(_prompts_loaded(prompts))
        if not settings.allow_absent:
            _require_behaviour(experiment, go_on)
        _ = experiment.bank
        store = StoredStudy.open(directory, experiment.proposals, identity, origin)
        return Run(settings, loaded, experiment, store)
    except BaseException:
        directory.close()
        raise


def identity_of(settings: Settings, source: ModelSource, prompts: Prompts) -> Identity:
    """What makes a run directory this run's."""
    return Identity.of(
        settings.model,
        study_settings(settings),
        weights=source.digest,
        prompts=prompts_digest(prompts),
    )


def known_of(directory: RunDirectory) -> tuple[str | None, Settled | None]:
    """The data type that the run used so far, and what it found out; None of a new run. Raises RunError."""
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
) -> tuple[LoadedModel, Experiment]:
    """The model in memory and its experiment; raises ExciseError if it cannot be used."""
    # The first data type that works may be another one today; every figure of the run is of the one it had.
    dtype, known = known_of(directory)
    typed = settings if dtype is None else in_data_type(settings, dtype, source)
    loaded = load_model(typed, source, emit)
    experiment = experiment_of(settings, loaded, prompts, emit, known=known)
    coverage, anatomy = experiment.coverage, experiment.anatomy
    if not settings.allow_partial:
        coverage.require_complete()
    elif not coverage.complete:
        emit(Note(f"going on with --allow-partial although {coverage.lacking()}"))
    if settings.save is not None:
        require_writable(anatomy)
    if settings.adapter is not None:
        require_adapter(loaded.model, anatomy.writers, settings.directions)
    unsaved = next((writer for writer in anatomy.writers if not writer.tensors), None)
    if unsaved is not None:
        emit(Note(unsavable(unsaved)))
    return loaded, experiment


def _require_behaviour(experiment: Experiment, go_on: Callable[[str], bool]) -> None:
    """Raise ModelError if there is next to nothing to remove, unless somebody says to go on."""
    absence = experiment.search_part.absence()
    if absence is not None and not go_on(absence):
        experiment.require_behaviour()


def _prompts_loaded(prompts: Prompts) -> PromptsLoaded:
    kinds = {"target": prompts.target, "control": prompts.control}
    return PromptsLoaded(
        counts={name: _counts(parts) for name, parts in kinds.items()},
        origins={name: parts.train.origin for name, parts in kinds.items()},
        notes=prompts.notes,
    )


def _counts(parts: Parts) -> dict[str, int]:
    return {
        "train": len(parts.train),
        "search": len(parts.search),
        "held_out": len(parts.held_out),
    }
