"""Loading a model: a hub id, a local folder or a GGUF file, in the first data type that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from excise.checkpoint.folder import weight_files
from excise.checkpoint.given import require_fetched
from excise.checkpoint.tensors import read_safetensors
from excise.config.settings import Quantization
from excise.engine.decode import greedy
from excise.engine.device_memory import devices_for
from excise.engine.out_of_memory import is_out_of_memory, release_memory
from excise.errors import ModelError, TrialError, first_line
from excise.model.blocked import is_blocked
from excise.model.configuration import configuration
from excise.model.data_type import fastest_first
from excise.model.fitting import smaller, too_large
from excise.model.foreign import (
    own_code,
    require_offload_folder,
    require_own_files,
)
from excise.model.layout import lay_out
from excise.model.mapping import auto_class
from excise.model.missing import reported, require_scales, require_whole
from excise.model.source import ModelSource
from excise.model.storage import (
    describe,
    packed_as,
    quantize_arguments,
    require_package,
    unpack_arguments,
    worth_trying,
)
from excise.model.template import TemplateCall
from excise.model.tokenizer import LoadedTokenizer, load_tokenizer, needs_its_own_code
from excise.model.weights import stored_bytes
from excise.quiet import quiet_libraries

_TEST_TOKENS = 3
_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    ImportError,
    # Kernels for packed weights check what they are given in these ways.
    TypeError,
    AssertionError,
    SafetensorError,
    MemoryError,
)
"""What loading a model, or its first steps, can raise for a data type that does not suit it."""


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
    def in_blocks(self) -> bool:
        """True if weights lie as this processor's products read them."""
        return any(map(is_blocked, self.model.parameters()))

    @property
    def bytes(self) -> int:
        """Memory that the weights take as they are stored, tied ones counted once, offloaded ones too."""
        return stored_bytes(self.model)

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
    blocks: bool = True,
) -> LoadedModel:
    """Load model and tokenizer, trying `dtypes` in turn, each with a test generation.

    On a CPU that is slower with the model's own type than with float32, float32 goes before "auto".

    quantization: packs the weights while loading; a checkpoint that is packed already loads as it is.
    max_memory: bytes of weights that each device may hold; the rest is offloaded, at last to disk, where
    weights go to `offload_folder` unless the checkpoint's own files serve.
    blocks: on a CPU, whether weights may lie as its products read them; not if they are to be trained, or an
    adapter merged into them.
    Raises ModelError that says why each data type failed, that weights are damaged, that a package is
    missing, that there is no such device, or that there is no chat template; OutOfMemoryError if the model
    fits in none of the types.
    """
    quiet_libraries()
    require_own_files(source)
    if offload_folder is not None:
        require_offload_folder(offload_folder)
    auto = _auto_class(source, trust_remote_code=trust_remote_code)
    packed = packed_as(source)
    _require_loadable(source, packed, quantization)
    devices = devices_for(device, max_memory)
    words = load_tokenizer(
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
    model: PreTrainedModel | None = None
    attempts: list[str] = []
    untried = worth_trying(tuple(dtypes), packing)
    while untried:
        dtype, untried = untried[0], untried[1:]
        how = unpack_arguments(source) | quantize_arguments(quantization, dtype, device)
        failure, memory_ran_out, note, slower = "", False, None, None
        try:
            model, note = _tested_model(source, auto, words, dtype, {**arguments, **how})
            if blocks and (packing is None or _was_unpacked(model)):
                slower = lay_out(model, words.hello())
        except _FAILURES as error:
            _raise_if_no_type_helps(source, packing, error)
            failure, memory_ran_out = first_line(error), is_out_of_memory(error)
        if failure:
            # Outside the except block: the traceback, and the weights that it keeps alive, are gone.
            model = None
            release_memory()
            attempts.append(f"{dtype}: {failure}")
            if memory_ran_out:
                # The type suits, but for its size: larger ones, and others of that size, fit no better.
                untried = () if packing else smaller(untried, dtype, source)
                if not untried:
                    raise too_large(
                        source, dtype, packing, devices, max_memory, "; ".join(attempts)
                    )
            continue
        assert model is not None
        if packing is not None and _was_unpacked(model):
            # transformers would save the plain tensors under the packed ones' names.
            model._weight_conversions = None
        return LoadedModel(
            model,
            words.tokenizer,
            source,
            str(model.dtype)[6:],
            tuple(attempts),
            words.call,
            words.given,
            None if packing is None or _was_unpacked(model) else describe(packing),
            quantization,
            tuple(one for one in (note, slower) if one is not None),
        )
    stored = "" if packing is None else f" as {describe(packing)}"
    hint = "; packed weights have to fit in --max-memory" if packing and max_memory else ""
    raise ModelError(f"{source.name} could not be loaded{stored} ({'; '.join(attempts)}){hint}")


def _auto_class(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """What loads the checkpoint. Raises ModelError if its files tell already that nothing can."""
    if source.gguf is not None:
        require_fetched(source.folder / source.gguf)
        # A GGUF file holds the language model alone, whatever else the model has.
        return AutoModelForCausalLM
    for name in weight_files(source.folder)[0]:
        path = source.folder / name
        if path.suffix == ".safetensors":
            read_safetensors(path)
        else:
            require_fetched(path)
    config = configuration(source.name, source.folder, trust_remote_code=trust_remote_code)
    return auto_class(source.name, config)


def _model(
    source: ModelSource, auto: Any, dtype: str, arguments: Mapping[str, Any]
) -> tuple[PreTrainedModel, str | None]:
    """The whole model, and what is to be noted of it. Raises ModelError if tensors are missing."""
    # The bars are transformers' own; progress is ours to show. The one of the GGUF conversion has no
    # switch, and standard error is where it goes; errors come as exceptions, not that way.
    transformers_logging.disable_progress_bar()
    model: PreTrainedModel
    with redirect_stderr(StringIO()) if source.gguf else nullcontext(), reported(source.name):
        model, info = auto.from_pretrained(
            source.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            output_loading_info=True,
            # They would raise without their names; they are refused with them.
            ignore_mismatched_sizes=True,
            **arguments,
        )
    note = require_whole(source.name, info)
    if _was_unpacked(model):
        require_scales(source.name, model)
    return model.eval().requires_grad_(False), note


def _tested_model(
    source: ModelSource,
    auto: Any,
    words: LoadedTokenizer,
    dtype: str,
    arguments: Mapping[str, Any],
) -> tuple[PreTrainedModel, str | None]:
    """A model that has answered a short prompt; raises ValueError if its logits are not numbers.

    In a function of its own, so that a model that fails is gone before the next type is tried.
    """
    model, note = _model(source, auto, dtype, arguments)
    try:
        greedy(model, [words.hello()], max_new_tokens=_TEST_TOKENS, slots=1)
    except TrialError as error:
        raise ValueError(f"in a test generation, {error}") from error
    return model, note


def _require_loadable(source: ModelSource, packed: str | None, quantization: Quantization) -> None:
    """Raise ModelError for what can be known before a weight is read."""
    if quantization != "none":
        if source.gguf is not None:
            raise ModelError(
                f"{source.name} is a GGUF file, which is unpacked while loading; leave out --quantization"
            )
        if packed is not None:
            raise ModelError(
                f"{source.name} is stored as {describe(packed)} already; leave out --quantization"
            )
        require_package(quantization)
    elif packed is not None:
        require_package(packed)


def _raise_if_no_type_helps(source: ModelSource, packing: str | None, error: Exception) -> None:
    """Raise ModelError for a failure that another data type would only repeat."""
    text = first_line(error)
    if needs_its_own_code(error):
        raise own_code(source.name, source.folder) from error
    if "offload_folder" in str(error):
        raise ModelError(
            f"{source.name}: weights that go to disk need a place there; give --offload-folder DIR"
        ) from error
    if packing is not None and isinstance(error, ImportError):
        raise ModelError(
            f"{source.name} as {describe(packing)} cannot be loaded: {text}"
        ) from error


def _was_unpacked(model: PreTrainedModel) -> bool:
    """True if transformers unpacked the checkpoint, as it does with FP8 and MXFP4 on a CPU."""
    # It takes the entry off then, because the model is an ordinary one from there on.
    return getattr(model.config, "quantization_config", None) is None
