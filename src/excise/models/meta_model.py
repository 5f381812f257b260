"""Configurations loaded by transformers, and models built from them on the meta device, without weights."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from excise.checkpoint.auto_class import auto_class
from excise.checkpoint.trust import require_trust
from excise.errors import ModelError, translated
from excise.undocumented import no_init_weights

_CONFIG = "config.json"
UNFIT = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    AttributeError,
    TypeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StrictDataclassError,
)
"""What transformers raises for an inconsistent configuration."""


def configuration(name: str, folder: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of the model in `folder`. name: as the user gave it.

    Raises ModelError for a damaged configuration, and for remote code that the user has not allowed.
    """
    require_trust(name, folder, trust_remote_code=trust_remote_code)
    with translated(ModelError, f"{folder / _CONFIG}: is not a usable configuration", *UNFIT):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    return config


def meta_model(name: str, folder: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    """The model that `config.json` in `folder` describes, on the meta device.

    name: as the user gave it. Raises ModelError if transformers cannot build it.
    """
    config = configuration(name, folder, trust_remote_code=trust_remote_code)
    return _built(name, config, trust_remote_code=trust_remote_code)


def gguf_meta_model(path: Path) -> PreTrainedModel:
    """The model that a GGUF file's metadata describe, on the meta device. Raises ModelError."""
    with translated(ModelError, f"{path}: transformers cannot read this model", *UNFIT):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return _built(path.name, config, trust_remote_code=False)


def _built(name: str, config: PreTrainedConfig, *, trust_remote_code: bool) -> PreTrainedModel:
    auto = auto_class(name, config)
    with (
        translated(ModelError, f"{name}: cannot be built from its configuration", *UNFIT),
        torch.device("meta"),
        no_init_weights(),
    ):
        model: PreTrainedModel = auto.from_config(config, trust_remote_code=trust_remote_code)
    return model
