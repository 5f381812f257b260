"""Everything before the search: model, coverage, prompts, batch size, baseline, directions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from excise.anatomy.tensors import unsavable
from excise.anatomy.writers import Anatomy
from excise.app.batch import batch_of, keep_batch
from excise.app.events import PromptsLoaded
from excise.app.model import in_data_type, open_model
from excise.app.settle import beginning_of, settle, unfinished_note
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings
from excise.config.prompt_sources import prompt_sources
from excise.edits.adapter import require_adapter
from excise.edits.base import Base
from excise.engine.batch_size import concurrent_candidates
from excise.errors import ModelError
from excise.events import Emit, Note, StageStarted
from excise.experiment.bank import Bank, per_matrix
from excise.experiment.build_bank import build_bank
from excise.experiment.cached_prefix import room_for_cached_layers
from excise.experiment.coverage import Coverage
from excise.experiment.events import BaselineMeasured, DirectionsFound
from excise.experiment.runner import Part, Runner, measure_original
from excise.models.load import LoadedModel
from excise.prompts.splits import Parts, PromptParts, load_parts
from excise.saving.export import require_rewritable, require_writable
from excise.store.directory import prompts_digest
from excise.store.opening import OpenRun, open_run

_SHOWN = 0.05
"""Share of target prompts that have to show the behaviour."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to search. Its directory is this process's alone until it is closed.

    candidates: how many are scored side by side. seconds: what each stage took.
    """

    settings: Settings
    directory: OpenRun
    loaded: LoadedModel
    anatomy: Anatomy
    coverage: Coverage
    prompts: PromptParts
    runner: Runner
    search_part: Part
    bank: Bank
    candidates: int
    seconds: dict[str, float]


def prepare(
    settings: Settings, emit: Emit, go_on: Callable[[str], bool] = lambda question: False
) -> Prepared:
    """Run all stages up to the search. Raises ExciseError for whatever the user can mend.

    go_on: asked, with the reason, whether to search although the model hardly shows the behaviour.
    """
    # What can fail on the user's side fails before minutes are spent on the model.
    prompts = load_parts(prompt_sources(settings))
    source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    if settings.save is not None:
        require_rewritable(source, settings.writers, trust_remote_code=settings.trust_remote_code)
    # What every edit file says of its model, read here once.
    Base.of(source)
    directory = open_run(settings, source.digest, prompts_digest(prompts))
    try:
        return _prepared(settings, prompts, source, directory, emit, go_on)
    except BaseException:
        directory.close()
        raise


def _prepared(
    settings: Settings,
    prompts: PromptParts,
    source: ModelSource,
    directory: OpenRun,
    emit: Emit,
    go_on: Callable[[str], bool],
) -> Prepared:
    for mended in directory.notes:
        emit(Note(mended))
    started = time.perf_counter()
    # The first data type that works may be another one today; every figure of the run is of the one it had.
    had = directory.dtype()
    typed = settings if had is None else in_data_type(settings, had, source)
    loaded, anatomy, coverage, runner = open_model(typed, source, emit)
    _require_usable(settings, loaded, anatomy, coverage, emit)
    seconds = {"load": time.perf_counter() - started}
    emit(_prompts_loaded(prompts))

    emit(StageStarted("baseline", "Asking the original model"))
    started = time.perf_counter()
    candidates = _settled(settings, prompts, directory, loaded, runner, emit)
    search_part = _baseline(prompts, loaded, anatomy, runner, emit)
    if not settings.allow_absent:
        _require_behaviour(search_part, go_on)
    seconds["baseline"] = time.perf_counter() - started

    emit(StageStarted("directions", "Finding the direction of each layer"))
    started = time.perf_counter()
    bank = build_bank(settings, loaded, anatomy, runner, prompts)
    seconds["directions"] = time.perf_counter() - started
    emit(DirectionsFound(settings.kinds, seconds["directions"]))
    blocks = [block for kind in settings.kinds for block in per_matrix(kind, anatomy)]
    if blocks:
        emit(
            Note(
                f"{len(blocks)} blocks of experts: only their sum can be edited while searching, so "
                "the search uses the orthogonal kind on them; what is saved has the row-normalised "
                "kind for each expert"
            )
        )
    return Prepared(
        settings,
        directory,
        loaded,
        anatomy,
        coverage,
        prompts,
        runner,
        search_part,
        bank,
        candidates,
        seconds,
    )


def _require_usable(
    settings: Settings, loaded: LoadedModel, anatomy: Anatomy, coverage: Coverage, emit: Emit
) -> None:
    """Raise ExciseError if the model is not covered, or what is to be saved of it cannot be."""
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


def _settled(
    settings: Settings,
    prompts: PromptParts,
    directory: OpenRun,
    loaded: LoadedModel,
    runner: Runner,
    emit: Emit,
) -> int:
    """Settle how the model is asked, as the run did before; returns how many candidates run at a time."""
    # A resumed run keeps the numbers of rows it had: rounding, and so a verdict, may depend on them.
    known = batch_of(directory)
    kept = keep_batch(known, runner, settings, loaded, prompts, emit)
    beginning = beginning_of(directory)
    settle(runner, settings, loaded, prompts, emit, probe=not kept, known=beginning)
    if settings.candidates:
        return settings.candidates
    if known is not None:
        return known.candidates
    return concurrent_candidates(runner.slots, len(prompts.target.search.prompts), loaded.model)


def _baseline(
    prompts: PromptParts, loaded: LoadedModel, anatomy: Anatomy, runner: Runner, emit: Emit
) -> Part:
    """What the original model says to the search's prompts."""
    part = measure_original(
        runner,
        prompts.target.search,
        prompts.control.search,
        partial(room_for_cached_layers, loaded, anatomy),
    )
    emit(BaselineMeasured("search", part.refusals, len(part.target)))
    note = unfinished_note(runner.chat, part.answered.tokens)
    if note is not None:
        emit(Note(note))
    return part


def _require_behaviour(part: Part, go_on: Callable[[str], bool]) -> None:
    """Raise ModelError if there is next to nothing to remove, unless somebody says to go on."""
    if part.refusals >= _SHOWN * len(part.target):
        return
    reason = (
        f"the model shows the behaviour on {part.refusals} of {len(part.target)} target prompts "
        f"(search prompts; at least {_SHOWN:.0%} are needed)"
    )
    if not go_on(reason):
        raise ModelError(
            f"{reason}: there is hardly anything to remove; give other target prompts or markers, or "
            "search all the same with --allow-absent"
        )


def _prompts_loaded(prompts: PromptParts) -> PromptsLoaded:
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
