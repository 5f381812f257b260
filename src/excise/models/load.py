"""Loading a model: a hub id, a local folder or a GGUF file, in the first data type that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from excise.checkpoint.source import ModelSource
from excise.checkpoint.trust import (
    require_offload_folder,
    require_sound_files,
)
from excise.data_types import Quantization
from excise.devices.memory import devices_for
from excise.devices.out_of_memory import is_out_of_memory, release_memory
from excise.devices.prepacked import is_prepacked
from excise.errors import ModelError, first_line
from excise.models.attempt import (
    FAILURES,
    loading_class,
    raise_if_no_type_helps,
    require_loadable,
    tested_model,
    was_unpacked,
)
from excise.models.data_type import fastest_first
from excise.models.memory_fit import smaller_dtypes, too_large_error
from excise.models.prepack import prepack_if_equal
from excise.models.quantization import (
    describe,
    dtypes_to_try,
    quantize_arguments,
    stored_quantization,
    unpack_arguments,
)
from excise.models.template import TemplateCall
from excise.models.tokenizer import LoadedTokenizer, load_tokenizer
from excise.models.weights import bytes_by_device, stored_bytes
from excise.system.quiet import quiet_libraries
from excise.undocumented import use_conversions


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    dtype: name of the data type it was loaded in; of packed weights, what it computes in. attempts: data
    types that failed before, with why. call: how the tokenizer's chat template is called. chat_template: the
    one that the user gave in place of the model's own, if any. packing: how the weights are packed in memory,
    in words; None if they are plain.
    quantization: how they were packed while loading; a checkpoint that was packed already has "none".
    notes: what a user should know of how it runs.
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
        """Memory that the weights take as they are stored, tied ones counted once, offloaded ones too."""
        return stored_bytes(self.model)

    @property
    def places(self) -> dict[str, int]:
        """The same by place: "cuda:0", "cpu", …, or "offloaded"."""
        return bytes_by_device(self.model)

    @property
    def precision(self) -> str:
        """Data type and packing for people: "bfloat16", or "bfloat16 over bitsandbytes 4-bit"."""
        return self.dtype if self.packing is None else f"{self.dtype} over {self.packing}"


def load(
    source: ModelSource,
    *,
    dtypes: Sequence[str] = ("auto", "float16", "bfloat16", "float32"),
    device: str = "auto",
    quantization: Quantization = "none",
    max_memory: Mapping[int | str, int] | None = None,
    offload_folder: Path | None = None,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
    prepack: bool = True,
) -> LoadedModel:
    """Load model and tokenizer, trying `dtypes` in turn, each with a test generation.

    On a CPU that is slower with the model's own type than with float32, float32 goes before "auto".

    quantization: packs the weights while loading; a checkpoint that is packed already loads as it is.
    max_memory: bytes of weights that each device may hold; the rest is offloaded, at last to disk, where
    weights go to `offload_folder` unless the checkpoint's own files serve.
    prepack: whether weights may be prepacked on a CPU; False if they are to be trained, or if an
    adapter is to be merged into them.
    Raises ModelError that says why each data type failed, that weights are damaged, that a package is
    missing, that there is no such device, or that there is no chat template; OutOfMemoryError if the model
    fits in none of the types.
    """
    quiet_libraries()
    require_sound_files(source)
    if offload_folder is not None:
        require_offload_folder(offload_folder)
    auto = loading_class(source, trust_remote_code=trust_remote_code)
    packed = stored_quantization(source)
    require_loadable(source, packed, quantization)
    devices = devices_for(device, max_memory)
    tokenizer = load_tokenizer(
        source,
        trust_remote_code=trust_remote_code,
        chat_template=chat_template,
        template_arguments=template_arguments,
        system_prompt=system_prompt,
    )
    if device == "auto":
        device = "auto" if torch.cuda.is_available() or max_memory else "cpu"
    arguments: dict[str, Any] = {
        "device_map": device,
        "max_memory": dict(max_memory) if max_memory else None,
        "offload_folder": offload_folder,
        "trust_remote_code": trust_remote_code,
        **source.gguf_arguments,
    }
    packing = packed if quantization == "none" else quantization
    if device == "cpu" and packing is None:
        dtypes = fastest_first(source, tuple(dtypes))
    trial = _Trial(source, auto, tokenizer, arguments, packing, quantization, prepack)
    return _in_first_type(trial, dtypes_to_try(tuple(dtypes), packing), devices)


@dataclass(frozen=True)
class _Trial:
    """What is the same whatever the data type. packing: how the weights are or become packed."""

    source: ModelSource
    auto: Any
    tokenizer: LoadedTokenizer
    arguments: Mapping[str, Any]
    packing: str | None
    quantization: Quantization
    prepack: bool

    def load(self, dtype: str) -> tuple[PreTrainedModel, tuple[str, ...]] | _Failure:
        """The model in a data type, and what is to be noted of it; or why not.

        In a function of its own: once it is left, so are the traceback and the weights that it keeps alive.
        """
        how = unpack_arguments(self.source) | quantize_arguments(
            self.quantization, dtype, self.arguments["device_map"]
        )
        try:
            model, note = tested_model(
                self.source, self.auto, self.tokenizer, dtype, {**self.arguments, **how}
            )
            slower = None
            if self.prepack and (self.packing is None or was_unpacked(model)):
                slower = prepack_if_equal(model, self.tokenizer.test_prompt())
        except FAILURES as error:
            raise_if_no_type_helps(self.source, self.packing, error)
            return _Failure(first_line(error), is_out_of_memory(error))
        return model, tuple(one for one in (note, slower) if one is not None)


@dataclass(frozen=True)
class _Failure:
    """Why a data type does not suit. memory_ran_out: whether for its size alone."""

    why: str
    memory_ran_out: bool


def _in_first_type(
    trial: _Trial, untried: tuple[str, ...], devices: Sequence[torch.device]
) -> LoadedModel:
    """The model in the first data type that works. devices: where it is to lie."""
    source, packing, limits = trial.source, trial.packing, trial.arguments["max_memory"]
    attempts: list[str] = []
    while untried:
        dtype, untried = untried[0], untried[1:]
        found = trial.load(dtype)
        if isinstance(found, _Failure):
            release_memory()
            attempts.append(f"{dtype}: {found.why}")
            if found.memory_ran_out:
                # The type suits, but for its size: larger ones, and others of that size, fit no better.
                untried = () if packing else smaller_dtypes(untried, dtype, source)
                if not untried:
                    raise too_large_error(
                        source, dtype, packing, devices, limits, "; ".join(attempts)
                    )
            continue
        model, notes = found
        unpacked = packing is not None and was_unpacked(model)
        if unpacked:
            # transformers would save the plain tensors under the packed ones' names.
            use_conversions(model, None)
        return LoadedModel(
            model,
            trial.tokenizer.tokenizer,
            source,
            str(model.dtype)[6:],
            tuple(attempts),
            trial.tokenizer.call,
            trial.tokenizer.custom_template,
            None if packing is None or unpacked else describe(packing),
            trial.quantization,
            notes,
        )
    stored = "" if packing is None else f" as {describe(packing)}"
    hint = "; packed weights have to fit in --max-memory" if packing and limits else ""
    raise ModelError(f"{source.name} could not be loaded{stored} ({'; '.join(attempts)}){hint}")
