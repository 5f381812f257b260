"""Loads a model from a hub id, a local folder or a GGUF file, in the first data type that works."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import release_memory
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excise.checkpoint.source import ModelSource, resolve
from excise.checkpoint.trust import remote_code_of, require_offload_folder, require_sound_files
from excise.data_types import Quantization
from excise.devices.memory import device_memory, devices_for
from excise.devices.prepacked import is_prepacked
from excise.errors import ModelError
from excise.events import Emit, Note, StageStarted, ignore
from excise.models.attempt import Attempts, Failure, loading_class, require_loadable, was_unpacked
from excise.models.events import DeviceFound, ModelLoaded
from excise.models.memory_fit import smaller_dtypes, too_large_error
from excise.models.options import LoadOptions
from excise.models.quantization import dtypes_to_try, packing_in_words, stored_quantization
from excise.models.rate import fastest_first
from excise.models.template import TemplateCall
from excise.models.tokenizer import load_tokenizer
from excise.models.weights import bytes_by_device, stored_bytes
from excise.system.quiet import quiet_libraries
from excise.undocumented import use_conversions


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    dtype: the data type that it computes in. attempts: data types that failed before, with the reasons. call:
    how to call the tokenizer's chat template. chat_template: the text of the user's template file, if any.
    packing: the quantisation of the weights in memory, for people; None if they are plain. quantization: the
    quantisation while loading; "none" for a checkpoint that was already quantised. notes: for the user.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    dtype: str
    attempts: tuple[str, ...]
    call: TemplateCall = field(default_factory=TemplateCall)
    chat_template: str | None = None
    packing: str | None = None
    quantization: Quantization = "none"
    notes: tuple[str, ...] = ()

    @property
    def prepacked(self) -> bool:
        """True if some weights are prepacked for this processor."""
        return any(map(is_prepacked, self.model.parameters()))

    @property
    def bytes(self) -> int:
        """Bytes of all weights, offloaded weights included, tied weights once."""
        return stored_bytes(self.model)

    @property
    def places(self) -> dict[str, int]:
        """Bytes of weights by device: "cuda:0", "cpu", …, or "offloaded"."""
        return bytes_by_device(self.model)

    @property
    def precision(self) -> str:
        """Data type and quantisation for people: "bfloat16", or "bfloat16 over bitsandbytes 4-bit"."""
        return self.dtype if self.packing is None else f"{self.dtype} over {self.packing}"


def load(
    model: str | Path | ModelSource,
    options: LoadOptions = LoadOptions(),
    *,
    revision: str | None = None,
    emit: Emit = ignore,
) -> LoadedModel:
    """Load a model and its tokenizer in the first data type that passes a test generation.

    model: a hub id (with `revision`), a local folder or a GGUF file. On a CPU, float32 is tried before "auto"
    if it is faster than the model's own type. emit: receives the events. Raises ModelError for an unknown
    model or device, damaged weights, a missing package, a missing chat template, and if every data type
    fails; HubError; OutOfMemoryError if the model fits into memory in no data type.
    """
    source = (
        model
        if isinstance(model, ModelSource)
        else resolve(str(model), revision, code=options.trust_remote_code)
    )
    for found in devices_found(options):
        emit(found)
    if options.trust_remote_code and (code := remote_code_of(source)):
        emit(
            Note(f"trust_remote_code (--trust-remote-code): {source.name} runs remote code, {code}")
        )
    emit(StageStarted("load", f"Loading {source.name}"))
    started = time.perf_counter()
    loaded = _loaded(source, options)
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
    return loaded


def devices_found(options: LoadOptions) -> list[DeviceFound]:
    """An event for each device that the options allow. Raises ModelError for a missing device."""
    limits = options.max_memory
    devices = devices_for(options.device, limits)
    allowed = list(limits.values()) if limits else [None] * len(devices)
    return [
        DeviceFound(known.name, known.total, limit)
        for known, limit in zip(map(device_memory, devices), allowed, strict=True)
    ]


def _loaded(source: ModelSource, options: LoadOptions) -> LoadedModel:
    quiet_libraries()
    require_sound_files(source)
    if options.offload_folder is not None:
        require_offload_folder(options.offload_folder)
    auto = loading_class(source, trust_remote_code=options.trust_remote_code)
    packed = stored_quantization(source)
    require_loadable(source, packed, options.quantization)
    devices = devices_for(options.device, options.max_memory)
    tokenizer = load_tokenizer(source, options)
    device, limits = options.device, dict(options.max_memory) or None
    if device == "auto":
        device = "auto" if torch.cuda.is_available() or limits else "cpu"
    arguments: dict[str, Any] = {
        "device_map": device,
        "max_memory": limits,
        "offload_folder": options.offload_folder,
        "trust_remote_code": options.trust_remote_code,
        **source.gguf_arguments,
    }
    dtypes: tuple[str, ...] = options.dtypes
    packing = packed if options.quantization == "none" else options.quantization
    if device == "cpu" and packing is None:
        dtypes = fastest_first(source, dtypes)
    shared = Attempts(source, auto, tokenizer, arguments, packing, options)
    return _in_first_type(shared, dtypes_to_try(dtypes, packing), devices)


def _in_first_type(
    shared: Attempts, untried: tuple[str, ...], devices: Sequence[torch.device]
) -> LoadedModel:
    source, packing, limits = shared.source, shared.packing, shared.arguments["max_memory"]
    attempts: list[str] = []
    while untried:
        dtype, untried = untried[0], untried[1:]
        found = shared.load(dtype)
        if isinstance(found, Failure):
            # Models are in reference cycles (hooks, bound methods), which only the garbage collector frees.
            release_memory()
            attempts.append(f"{dtype}: {found.why}")
            if found.memory_ran_out:
                # Only smaller data types can fit.
                untried = () if packing else smaller_dtypes(untried, dtype, source)
                if not untried:
                    raise too_large_error(
                        source, dtype, packing, devices, limits, "; ".join(attempts)
                    )
            continue
        model, notes = found
        unpacked = packing is not None and was_unpacked(model)
        if unpacked:
            # transformers would save the plain tensors with the names of the quantised tensors.
            use_conversions(model, None)
        return LoadedModel(
            model,
            shared.tokenizer.tokenizer,
            source,
            str(model.dtype)[6:],
            tuple(attempts),
            shared.tokenizer.call,
            shared.tokenizer.custom_template,
            None if packing is None or unpacked else packing_in_words(packing),
            shared.options.quantization,
            notes,
        )
    stored = "" if packing is None else f" as {packing_in_words(packing)}"
    hint = "; quantised weights have to fit in max_memory" if packing and limits else ""
    raise ModelError(f"{source.name} could not be loaded{stored} ({'; '.join(attempts)}){hint}")
