"""One attempt to load a model in one data type, with the checks before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from excise.checkpoint.auto_class import auto_class
from excise.checkpoint.source import ModelSource
from excise.checkpoint.trust import remote_code_error
from excise.data_types import Quantization
from excise.engine.decode import greedy
from excise.errors import ModelError, TrialError, first_line
from excise.models.configuration import UNFIT, configuration
from excise.models.missing_keys import captured_report, require_complete, require_scales
from excise.models.positions import require_known
from excise.models.quantization import packing_in_words, require_package
from excise.models.tokenizer import LoadedTokenizer, needs_its_own_code
from excise.system.json_files import read_json_object

_TEST_TOKENS = 3
_GENERATION = "generation_config.json"
LOADING_FAILURES = (*UNFIT, SafetensorError, MemoryError)
"""What loading a model, or its first steps, can raise for a data type that does not suit it."""


def loading_class(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The auto class that loads the model. Raises ModelError for a damaged configuration or unknown type."""
    if source.gguf is not None:
        # A GGUF file holds only the language model, without vision or audio towers.
        return AutoModelForCausalLM
    generation = source.folder / _GENERATION
    if generation.exists():
        # transformers ignores a damaged file and wrong entries, and would then use other end tokens.
        ends = read_json_object(generation, ModelError).get("eos_token_id")
        for token in ends if isinstance(ends, list) else [] if ends is None else [ends]:
            if type(token) is not int:
                raise ModelError(f"{generation}: eos_token_id is not a token id: {token!r:.60}")
    config = configuration(source.name, source.folder, trust_remote_code=trust_remote_code)
    return auto_class(source.name, config)


def _model(
    source: ModelSource, auto: Any, dtype: str, arguments: Mapping[str, Any]
) -> tuple[PreTrainedModel, str | None]:
    """The model, and a note about unused tensors. Raises ModelError if tensors are missing."""
    # excise shows progress itself. The bar of the GGUF conversion cannot be switched off: it is dropped
    # with standard error; errors are exceptions.
    transformers_logging.disable_progress_bar()
    model: PreTrainedModel
    with (
        redirect_stderr(StringIO()) if source.gguf else nullcontext(),
        captured_report(source.name),
    ):
        model, info = auto.from_pretrained(
            source.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            output_loading_info=True,
            # `require_complete` reports wrong shapes by name; transformers would raise without names.
            ignore_mismatched_sizes=True,
            **arguments,
        )
    note = require_complete(
        source.name, info, packing="quantization_config" in arguments and source.gguf is None
    )
    if was_unpacked(model):
        require_scales(source.name, model)
    return model.eval().requires_grad_(False), note


def tested_model(
    source: ModelSource,
    auto: Any,
    tokenizer: LoadedTokenizer,
    dtype: str,
    arguments: Mapping[str, Any],
) -> tuple[PreTrainedModel, str | None]:
    """The model, after a short test generation. Raises ValueError if its logits are not numbers.

    A function of its own, so that a failed model is freed before the next data type is tried.
    """
    model, note = _model(source, auto, dtype, arguments)
    require_known(model, tokenizer.test_prompt())
    try:
        greedy(model, [tokenizer.test_prompt()], max_new_tokens=_TEST_TOKENS, slots=1)
    except TrialError as error:
        raise ValueError(f"in a test generation, {error}") from error
    return model, note


def require_loadable(source: ModelSource, packed: str | None, quantization: Quantization) -> None:
    """Raise ModelError for unsuitable quantisation settings and missing packages, before weights are read."""
    if quantization != "none":
        if source.gguf is not None:
            raise ModelError(
                f"{source.name} is a GGUF file, which is dequantised while loading; leave out --quantization"
            )
        if packed is not None:
            raise ModelError(
                f"{source.name} is stored as {packing_in_words(packed)} already; leave out --quantization"
            )
        require_package(quantization)
    elif packed is not None:
        require_package(packed)


def raise_if_no_type_helps(source: ModelSource, packing: str | None, error: Exception) -> None:
    """Raise ModelError for a failure that every other data type would repeat."""
    text = first_line(error)
    if needs_its_own_code(error):
        raise remote_code_error(source.name, source.folder) from error
    if "offload_folder" in str(error):
        raise ModelError(
            f"{source.name}: weights offloaded to disk need a folder; give --offload-folder DIR"
        ) from error
    if packing is not None and isinstance(error, ImportError):
        raise ModelError(
            f"{source.name} as {packing_in_words(packing)} cannot be loaded: {text}"
        ) from error


def was_unpacked(model: PreTrainedModel) -> bool:
    """True if transformers dequantised the checkpoint, as it does with FP8 and MXFP4 on a CPU."""
    # It then removes the entry from the configuration.
    return getattr(model.config, "quantization_config", None) is None
