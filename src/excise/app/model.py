"""The model that the settings name: loaded, ready to be asked, its writers found and covered."""

from __future__ import annotations

import time

from excise.anatomy.writers import Anatomy, examine
from excise.app.events import DeviceFound, Examined, ModelLoaded
from excise.checkpoint.source import ModelSource
from excise.checkpoint.trust import remote_code_of
from excise.config import Settings
from excise.config.memory import memory_limits
from excise.devices.memory import device_memory, devices_for
from excise.events import Emit, Note, StageStarted
from excise.experiment.coverage import Coverage, measure
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import LoadedModel, load
from excise.models.quantization import stored_quantization
from excise.models.tokenizer import load_tokenizer


def in_data_type(settings: Settings, dtype: str, source: ModelSource) -> Settings:
    """`settings`, with one data type to load a checkpoint in; unchanged if its weights are or become packed.

    Packing decides what products are in, and that is not always the type of what is left unpacked.
    """
    if settings.quantization != "none" or stored_quantization(source) is not None:
        return settings
    return settings.model_copy(update={"dtypes": (dtype,)})


def open_model(
    settings: Settings, source: ModelSource, emit: Emit
) -> tuple[LoadedModel, Anatomy, Coverage, Runner]:
    """Load a model, find its writers and prove coverage. Raises ModelError if it cannot be loaded."""
    loaded, runner = load_runner(settings, source, emit)
    anatomy = examine(loaded.model, settings.writers)
    coverage = measure(loaded.model, anatomy, runner.chat.test_prompt(settings.system_prompt))
    emit(Examined(len(anatomy.layers), anatomy.matrices(), coverage.per_layer))
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
    ).custom_template


def load_runner(settings: Settings, source: ModelSource, emit: Emit) -> tuple[LoadedModel, Runner]:
    """Load a model, ready to be asked. Raises ModelError."""
    for found in devices_found(settings):
        emit(found)
    if settings.trust_remote_code and (code := remote_code_of(source)):
        emit(Note(f"--trust-remote-code: {source.name} runs code of its own, {code}"))
    emit(StageStarted("load", f"Loading {source.name}"))
    started = time.perf_counter()
    loaded = load(
        source,
        dtypes=settings.dtypes,
        device=settings.device,
        quantization=settings.quantization,
        max_memory=memory_limits(settings.max_memory),
        offload_folder=settings.offload_folder,
        trust_remote_code=settings.trust_remote_code,
        chat_template=settings.chat_template,
        template_arguments=settings.template_arguments,
        system_prompt=settings.system_prompt,
    )
    emit(
        ModelLoaded(
            name=source.name,
            dtype=loaded.precision,
            bytes=loaded.bytes,
            seconds=time.perf_counter() - started,
            attempts=loaded.attempts,
            places=loaded.places,
        )
    )
    for note in loaded.notes:
        emit(Note(note))
    runner = Runner(
        loaded.model,
        Chat(loaded.tokenizer, settings.response_prefix or "", loaded.call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=settings.batch_size or 1,
        emit=emit,
    )
    return loaded, runner


def devices_found(settings: Settings) -> list[DeviceFound]:
    """The devices that the model may come to lie on. Raises ModelError if there is no such device here."""
    limits = memory_limits(settings.max_memory)
    devices = devices_for(settings.device, limits)
    allowed = list(limits.values()) if limits else [None] * len(devices)
    return [
        DeviceFound(known.name, known.total, limit)
        for known, limit in zip(map(device_memory, devices), allowed, strict=True)
    ]
