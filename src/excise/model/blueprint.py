"""A model without its weights: built from the configuration alone, on the meta device."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from excise.errors import ModelError, first_line
from excise.model.foreign import require_trust


def blueprint(name: str, folder: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    """The model that `config.json` in `folder` describes: names and shapes, no numbers, no memory.

    name: as the user gave it. Raises ModelError if transformers cannot build it.
    """
    require_trust(name, folder, trust_remote_code=trust_remote_code)
    return _built(name, folder, trust_remote_code=trust_remote_code)


def gguf_blueprint(path: Path) -> PreTrainedModel:
    """The same for the model that a GGUF file's metadata describe. Raises ModelError."""
    return _built(path.name, path.parent, trust_remote_code=False, gguf_file=path.name)


def _built(name: str, folder: Path, **arguments: bool | str) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(folder, **arguments)
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, trust_remote_code=arguments["trust_remote_code"]
            )
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        reason = first_line(error)
        raise ModelError(f"{name}: cannot be built from its configuration ({reason})") from error
    return model
