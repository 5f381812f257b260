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
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from excise.errors import ModelError
from excise.model.source import ModelSource


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    dtype: name of the data type it was loaded in. attempts: data types that failed before, with why.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    dtype: str
    attempts: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Memory that the weights take, tied ones counted once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters())


def load(
    source: ModelSource,
    *,
    dtypes: Sequence[str] = ("auto", "float16", "bfloat16", "float32"),
    device: str = "auto",
    trust_remote_code: bool = False,
    chat_template: Path | None = None,
) -> LoadedModel:
    """Load model and tokenizer, trying `dtypes` in turn, each with a test generation.

    Raises ModelError that says why each data type failed, that weights are damaged, or that there is no
    chat template.
    """
    for path in sorted(source.folder.glob("*.safetensors")) if source.gguf is None else ():
        check_safetensors(path)
    tokenizer = _tokenizer(source, trust_remote_code, chat_template)
    attempts: list[str] = []
    for dtype in dtypes:
        try:
            model = _model(source, dtype, device, trust_remote_code)
            _test_generation(model, tokenizer)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            attempts.append(f"{dtype}: {_first_line(error)}")
            continue
        return LoadedModel(model, tokenizer, source, str(model.dtype)[6:], tuple(attempts))
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
    source: ModelSource, trust_remote_code: bool, chat_template: Path | None
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
    return tokenizer


def _model(
    source: ModelSource, dtype: str, device: str, trust_remote_code: bool
) -> PreTrainedModel:
    if device == "auto":
        device = "auto" if torch.cuda.is_available() else "cpu"
    # The bars are transformers' own; progress is ours to show. The one of the GGUF conversion has no
    # switch, and standard error is where it goes; errors come as exceptions, not that way.
    transformers_logging.disable_progress_bar()
    with redirect_stderr(StringIO()) if source.gguf else nullcontext():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map=device,
            trust_remote_code=trust_remote_code,
            **source.gguf_arguments,
        )
    return model.eval().requires_grad_(False)


def _test_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """One token from a short prompt; raises ValueError if the logits are not numbers."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids.to(model.device), use_cache=False, logits_to_keep=1).logits
    if not torch.isfinite(logits).all():
        raise ValueError("the logits of a test generation are not numbers (overflow)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
