"""One attempt to load a model in one data type, with the checks before and after it, and prepacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
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
from excise.devices.out_of_memory import is_out_of_memory
from excise.devices.prepacked import prepack, prepackable, undo_prepacking
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.errors import ModelError, TrialError, first_line
from excise.models.meta_model import UNFIT, configuration
from excise.models.missing_keys import captured_report, require_complete, require_scales
from excise.models.options import LoadOptions
from excise.models.positions import require_known
from excise.models.quantization import packing_in_words, quantization_config, require_package
from excise.models.tokenizer import LoadedTokenizer, needs_its_own_code
from excise.system.json_files import read_json_object


def loading_class(source: ModelSource, *, trust_remote_code: bool) -> Any:
    """The auto class that loads the model. Raises ModelError for a damaged configuration or unknown type."""
    if source.gguf is not None:
        # A GGUF file holds only the language model, without vision or audio towers.
        return AutoModelForCausalLM
    generation = source.folder / "generation_config.json"
    if generation.exists():
        # transformers ignores a damaged file and wrong entries, and would then use other end tokens.
        ends = read_json_object(generation, ModelError).get("eos_token_id")
        for token in ends if isinstance(ends, list) else [] if ends is None else [ends]:
            if type(token) is not int:
                raise ModelError(f"{generation}: eos_token_id is not a token id: {token!r:.60}")
    config = configuration(source.name, source.folder, trust_remote_code=trust_remote_code)
    return auto_class(source.name, config)


def require_loadable(source: ModelSource, packed: str | None, quantization: Quantization) -> None:
    """Raise ModelError for unsuitable quantisation settings and missing packages, before weights are read."""
    if quantization != "none":
        is_what = f"stored as {packing_in_words(packed)} already" if packed else None
        if source.gguf is not None:
            is_what = "a GGUF file, which is dequantised while loading"
        if is_what is not None:
            raise ModelError(
                f"{source.name} is {is_what}; leave this setting out",
                setting="quantization",
                value=quantization,
            )
        require_package(quantization)
    elif packed is not None:
        require_package(packed)


def was_unpacked(model: PreTrainedModel) -> bool:
    """True if transformers dequantised the checkpoint, as it does with FP8 and MXFP4 on a CPU."""
    # It then removes the entry from the configuration.
    return getattr(model.config, "quantization_config", None) is None


@dataclass(frozen=True)
class Failure:
    """Why a data type failed. memory_ran_out: whether memory ran out."""

    why: str
    memory_ran_out: bool


@dataclass(frozen=True)
class Attempts:
    """What all attempts to load a model share. packing: the quantisation of the weights, if any."""

    source: ModelSource
    auto: Any
    tokenizer: LoadedTokenizer
    arguments: Mapping[str, Any]
    packing: str | None
    options: LoadOptions

    def load(self, dtype: str) -> tuple[PreTrainedModel, tuple[str, ...]] | Failure:
        """The model in a data type, with notes for the user; or the failure.

        A failed model and its traceback are freed on return, before the next data type is tried. Raises
        ModelError for a failure that every other data type would repeat.
        """
        try:
            model, note = self._model(dtype)
            prompt = self.tokenizer.test_prompt()
            require_known(model, prompt)
            try:
                greedy(model, [prompt], max_new_tokens=TEST_TOKENS, slots=1)
            except TrialError as error:
                raise ValueError(f"in a test generation, {error}") from error
            slower = None
            if self.options.prepack and (self.packing is None or was_unpacked(model)):
                slower = prepack_if_equal(model, prompt)
        except (*UNFIT, SafetensorError, MemoryError) as error:
            self._raise_if_no_type_helps(error)
            return Failure(first_line(error), is_out_of_memory(error))
        return model, tuple(one for one in (note, slower) if one is not None)

    def _model(self, dtype: str) -> tuple[PreTrainedModel, str | None]:
        """The model, and a note about unused tensors. Raises ModelError if tensors are missing."""
        source, quantization = self.source, self.options.quantization
        config = quantization_config(source, quantization, dtype, self.arguments["device_map"])
        # excise shows progress itself. The bar of the GGUF conversion cannot be switched off: it is dropped
        # with standard error; errors are exceptions.
        transformers_logging.disable_progress_bar()
        model: PreTrainedModel
        with (
            redirect_stderr(StringIO()) if source.gguf else nullcontext(),
            captured_report(source.name),
        ):
            model, info = self.auto.from_pretrained(
                source.folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                output_loading_info=True,
                # `require_complete` reports wrong shapes by name; transformers would raise without names.
                ignore_mismatched_sizes=True,
                **self.arguments,
                **({} if config is None else {"quantization_config": config}),
            )
        note = require_complete(source.name, info, quantization)
        if was_unpacked(model):
            require_scales(source.name, model)
        return model.eval().requires_grad_(False), note

    def _raise_if_no_type_helps(self, error: Exception) -> None:
        name, packing = self.source.name, self.packing
        if needs_its_own_code(error):
            raise remote_code_error(name, self.source.folder) from error
        if "offload_folder" in str(error):
            raise ModelError(
                f"{name}: weights offloaded to disk need a folder; give offload_folder (--offload-folder DIR)"
            ) from error
        if packing is not None and isinstance(error, ImportError):
            as_what = packing_in_words(packing)
            raise ModelError(
                f"{name} as {as_what} cannot be loaded: {first_line(error)}"
            ) from error


TEST_TOKENS = 3
_SLOWER = "weights are not prepacked for this processor, which makes passes slower"


def prepack_if_equal(model: PreTrainedModel, prompt: Sequence[int]) -> str | None:
    """Prepack the weights if the model still gives the same logits; otherwise returns why not.

    prompt: token ids for the test, which runs a forward pass and a short generation. Raises RuntimeError or
    MemoryError if memory runs out.
    """
    if not prepackable(model):
        return None
    prompts = [prompt]
    before = first_token_logits(model, prompts, 1).float()
    try:
        prepack(model)
        greedy(model, prompts, max_new_tokens=TEST_TOKENS, slots=1)
        after = first_token_logits(model, prompts, 1).float()
    except (RuntimeError, TypeError, AttributeError, TrialError, MemoryError) as error:
        # A layer that reads its own weights needs PyTorch's layout.
        undo_prepacking(model)
        if is_out_of_memory(error):
            raise
        return f"{_SLOWER}: {first_line(error)}"
    # Another order of summation changes the logits by rounding only.
    if (before - after).norm() <= torch.finfo(model.dtype).eps ** 0.5 * before.norm():
        return None
    undo_prepacking(model)
    return f"{_SLOWER}: prepacking changed the logits"
