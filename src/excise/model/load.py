"""Loading a model: a hub id, a local folder or a GGUF file, in the first data type that works."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from excise.engine.decode import greedy
from excise.errors import ModelError, TrialError
from excise.model.blueprint import require_trust
from excise.model.chat import render
from excise.model.placement import Placement
from excise.model.source import ModelSource
from excise.model.weights import stored_bytes

_TEST_TOKENS = 3


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    dtype: name of the data type it was loaded in. attempts: data types that failed before, with why.
    chat_template: the one that the user gave in place of the model's own, if any.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    dtype: str
    attempts: tuple[str, ...]
    chat_template: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes that the weights take where they are stored, tied ones counted once."""
        return stored_bytes(self.model.parameters())


def load(
    source: ModelSource,
    *,
    dtypes: Sequence[str] = ("auto", "float16", "bfloat16", "float32"),
    placement: Placement | None = None,
    trust_remote_code: bool = False,
    chat_template: Path | None = None,
    system_prompt: str | None = None,
) -> LoadedModel:
    """Load model and tokenizer, trying `dtypes` in turn, each with a test generation.

    Raises ModelError that says why each data type failed, that weights are damaged, or that there is no
    chat template.
    """
    if source.gguf is None:
        require_trust(source.name, source.folder, trust_remote_code=trust_remote_code)
        for path in sorted(source.folder.glob("*.safetensors")):
            check_safetensors(path)
    tokenizer = _tokenizer(source, trust_remote_code, chat_template, system_prompt)
    attempts: list[str] = []
    for dtype in dtypes:
        try:
            model = _tested_model(
                source, tokenizer, dtype, placement or Placement(), trust_remote_code
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            attempts.append(f"{dtype}: {_first_line(error)}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        given = None if chat_template is None else tokenizer.chat_template
        return LoadedModel(model, tokenizer, source, str(model.dtype)[6:], tuple(attempts), given)
    raise ModelError(f"{source.name} could not be loaded ({'; '.join(attempts)})")


def check_safetensors(path: Path) -> None:
    """Raise ModelError if a safetensors file is damaged or shorter than its header says."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: damaged weights file ({error}); download it again") from error
    expected, actual = 8 + length + max(ends, default=0), path.stat().st_size
    if actual != expected:
        raise ModelError(
            f"{path}: damaged weights file ({actual:,} bytes, should be {expected:,}); "
            "download it again"
        )


def _tokenizer(
    source: ModelSource,
    trust_remote_code: bool,
    chat_template: Path | None,
    system_prompt: str | None,
) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=trust_remote_code, **source.gguf_arguments
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source.name}: no usable tokenizer ({_first_line(error)})") from error
    if chat_template is not None:
        try:
            tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"--chat-template {chat_template}: {error}") from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{source.name} has no chat template; give one with --chat-template FILE (a Jinja file)"
        )
    try:
        render(tokenizer, "Hello", system_prompt)
    except TemplateError as error:
        raise ModelError(
            f"{source.name}: its chat template does not take such prompts ({_first_line(error)}); "
            "give another one with --chat-template FILE, or no system prompt"
        ) from error
    return tokenizer


def _model(
    source: ModelSource, dtype: str, placement: Placement, trust_remote_code: bool
) -> PreTrainedModel:
    # The bars are transformers' own; progress is ours to show. The one of the GGUF conversion has no
    # switch, and standard error is where it goes; errors come as exceptions, not that way.
    transformers_logging.disable_progress_bar()
    with redirect_stderr(StringIO()) if source.gguf else nullcontext():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source.folder,
            trust_remote_code=trust_remote_code,
            **placement.arguments(dtype),
            **source.gguf_arguments,
        )
    return model.eval().requires_grad_(False)


def _tested_model(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    placement: Placement,
    trust_remote_code: bool,
) -> PreTrainedModel:
    """A model that has answered a short prompt; raises ValueError if its logits are not numbers.

    In a function of its own, so that a model that fails is gone before the next type is tried.
    """
    model = _model(source, dtype, placement, trust_remote_code)
    text = render(tokenizer, "Hello", None)
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    try:
        greedy(model, [tokens], max_new_tokens=_TEST_TOKENS, slots=1)
    except TrialError as error:
        raise ValueError(f"in a test generation, {error}") from error
    return model


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
