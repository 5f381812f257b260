"""Everything before the search: model, coverage, prompts, batch size, baseline, directions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from excise.config import Settings
from excise.config.memory import memory_limits
from excise.edit.adapter import require_adapter
from excise.edit.base import Base
from excise.edit.layout import unsavable
from excise.engine.batch_size import side_by_side
from excise.engine.device_memory import device_memory, devices_for
from excise.errors import ModelError
from excise.model.chat import Chat
from excise.model.coverage import Coverage, measure
from excise.model.foreign import code_of
from excise.model.load import LoadedModel, load
from excise.model.source import ModelSource, resolve
from excise.model.storage import packed_as
from excise.model.tokenizer import load_tokenizer
from excise.model.writers import Anatomy, examine
from excise.prompts.splits import Parts, PromptParts, load_parts
from excise.run import events
from excise.run.bank import build_bank
from excise.run.batch import batch_of, keep_batch
from excise.run.directory import prompts_digest
from excise.run.early import room_for_early
from excise.run.events import Tell
from excise.run.export import require_rewritable, require_writable
from excise.run.opening import OpenRun, open_run
from excise.run.runner import Part, Runner, measure_original
from excise.run.settle import beginning_of, settle, unfinished_note
from excise.search.bank import Bank, per_matrix

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
    settings: Settings, tell: Tell, go_on: Callable[[str], bool] = lambda question: False
) -> Prepared:
    """Run all stages up to the search. Raises ExciseError for whatever the user can mend.

    go_on: asked, with the reason, whether to search although the model hardly shows the behaviour.
    """
    # What can fail on the user's side fails before minutes are spent on the model.
    prompts = load_parts(settings)
    source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    if settings.save is not None:
        require_rewritable(source, settings.writers, trust_remote_code=settings.trust_remote_code)
    # What every edit file says of its model, read here once.
    Base.of(source)
    directory = open_run(settings, source.digest, prompts_digest(prompts))
    try:
        return _prepared(settings, prompts, source, directory, tell, go_on)
    except BaseException:
        directory.close()
        raise


def _prepared(
    settings: Settings,
    prompts: PromptParts,
    source: ModelSource,
    directory: OpenRun,
    tell: Tell,
    go_on: Callable[[str], bool],
) -> Prepared:
    for mended in directory.notes:
        tell(events.Note(mended))
    started = time.perf_counter()
    # The first data type that works may be another one today; every figure of the run is of the one it had.
    had = directory.dtype()
    typed = settings if had is None else in_data_type(settings, had, source)
    loaded, anatomy, coverage, runner = open_model(typed, source, tell)
    if not settings.allow_partial:
        coverage.require_complete()
    elif not coverage.complete:
        tell(events.Note(f"going on with --allow-partial although {coverage.lacking()}"))
    if settings.save is not None:
        require_writable(anatomy)
    if settings.adapter is not None:
        require_adapter(loaded.model, anatomy.writers, settings.directions)
    unsaved = next((writer for writer in anatomy.writers if not writer.tensors), None)
    if unsaved is not None:
        tell(events.Note(unsavable(unsaved)))
    load_seconds = time.perf_counter() - started
    tell(
        events.PromptsLoaded(
            counts={"target": _counts(prompts.target), "control": _counts(prompts.control)},
            origins={
                "target": prompts.target.train.origin,
                "control": prompts.control.train.origin,
            },
            notes=prompts.notes,
        )
    )

    tell(events.StageStarted("baseline", "Asking the original model"))
    started = time.perf_counter()
    # A resumed run keeps the numbers of rows it had: rounding, and so a verdict, may depend on them.
    known = batch_of(directory)
    kept = keep_batch(known, runner, settings, loaded, prompts, tell)
    settle(
        runner,
        settings,
        loaded,
        prompts,
        tell,
        probe=not kept,
        known=beginning_of(directory),
    )
    candidates = settings.candidates or (
        known.candidates
        if known
        else side_by_side(runner.slots, len(prompts.target.search.prompts), loaded.model)
    )
    search_part = measure_original(
        runner,
        prompts.target.search,
        prompts.control.search,
        partial(room_for_early, loaded, anatomy),
    )
    tell(events.BaselineMeasured("search", search_part.refusals, len(search_part.target)))
    note = unfinished_note(runner.chat, search_part.answered.tokens)
    if note is not None:
        tell(events.Note(note))
    if not settings.allow_absent:
        _require_behaviour(search_part, go_on)
    baseline_seconds = time.perf_counter() - started

    tell(events.StageStarted("directions", "Finding the direction of each layer"))
    started = time.perf_counter()
    bank = build_bank(settings, loaded, anatomy, runner, prompts)
    directions_seconds = time.perf_counter() - started
    tell(events.DirectionsFound(settings.kinds, directions_seconds))
    blocks = [block for kind in settings.kinds for block in per_matrix(kind, anatomy)]
    if blocks:
        tell(
            events.Note(
                f"{len(blocks)} blocks of experts: only their sum can be edited while searching, so "
                "the search uses the orthogonal kind on them; what is saved has the row-normalised "
                "kind for each expert"
            )
        )
    return Prepared(
        settings=settings,
        directory=directory,
        loaded=loaded,
        anatomy=anatomy,
        coverage=coverage,
        prompts=prompts,
        runner=runner,
        search_part=search_part,
        bank=bank,
        candidates=candidates,
        seconds={
            "load": load_seconds,
            "baseline": baseline_seconds,
            "directions": directions_seconds,
        },
    )


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


def in_data_type(settings: Settings, dtype: str, source: ModelSource) -> Settings:
    """`settings`, with one data type to load a checkpoint in; unchanged if its weights are or become packed.

    Packing decides what products are in, and that is not always the type of what is left unpacked.
    """
    if settings.quantization != "none" or packed_as(source) is not None:
        return settings
    return settings.model_copy(update={"dtypes": (dtype,)})


def open_model(
    settings: Settings, source: ModelSource, tell: Tell
) -> tuple[LoadedModel, Anatomy, Coverage, Runner]:
    """Load a model, find its writers and prove coverage. Raises ModelError if it cannot be loaded."""
    loaded, runner = load_runner(settings, source, tell)
    anatomy = examine(loaded.model, settings.writers)
    coverage = measure(loaded.model, anatomy, runner.chat.hello(settings.system_prompt))
    tell(events.Examined(len(anatomy.layers), anatomy.matrices(), coverage.per_layer))
    return loaded, anatomy, coverage, runner


def given_template(settings: Settings, source: ModelSource) -> str | None:
    """The text of the chat template that the user gave a file for. Raises ModelError.

    It is read as for a run: a template that does not take prompts is not worth saving.
    """
    if settings.chat_template is None:
        return None
    return load_tokenizer(
        source,
        trust_remote_code=settings.trust_remote_code,
        chat_template=settings.chat_template,
        template_arguments=settings.template_arguments,
        system_prompt=settings.system_prompt,
    ).given


def load_runner(settings: Settings, source: ModelSource, tell: Tell) -> tuple[LoadedModel, Runner]:
    """Load a model, ready to be asked. Raises ModelError."""
    for found in devices_found(settings):
        tell(found)
    if settings.trust_remote_code and (code := code_of(source)):
        tell(events.Note(f"--trust-remote-code: {source.name} runs code of its own, {code}"))
    tell(events.StageStarted("load", f"Loading {source.name}"))
    started = time.perf_counter()
    loaded = load(
        source,
        dtypes=(settings.dtype,) if settings.dtype else settings.dtypes,
        device=settings.device,
        quantization=settings.quantization,
        max_memory=memory_limits(settings.max_memory),
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
        chat_template=settings.chat_template,
        template_arguments=settings.template_arguments,
        system_prompt=settings.system_prompt,
    )
    tell(
        events.ModelLoaded(
            name=source.name,
            dtype=loaded.precision,
            bytes=loaded.bytes,
            seconds=time.perf_counter() - started,
            attempts=loaded.attempts,
            places=loaded.places,
        )
    )
    for note in loaded.notes:
        tell(events.Note(note))
    runner = Runner(
        loaded.model,
        Chat(loaded.tokenizer, settings.response_prefix or "", loaded.call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=settings.batch_size or 1,
        tell=tell,
    )
    return loaded, runner


def devices_found(settings: Settings) -> list[events.DeviceFound]:
    """The devices that the model may come to lie on. Raises ModelError if there is no such device here."""
    limits = memory_limits(settings.max_memory)
    devices = devices_for(settings.device, limits)
    allowed = list(limits.values()) if limits else [None] * len(devices)
    return [
        events.DeviceFound(known.name, known.total, limit)
        for known, limit in zip(map(device_memory, devices), allowed, strict=True)
    ]


def _counts(parts: Parts) -> dict[str, int]:
    return {
        "train": len(parts.train),
        "search": len(parts.search),
        "held_out": len(parts.held_out),
    }
