"""A checkpoint's configuration, and what may be wrong with it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from excise.checkpoint.foreign import require_trust
from excise.errors import ModelError, translated

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
"""What transformers raises for numbers and names in a configuration that do not fit together."""


def configuration(name: str, folder: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of the model in `folder`. name: as the user gave it.

    Raises ModelError for a damaged one, and for one that needs code of the model's own that the user has
    not allowed to run.
    """
    require_trust(name, folder, trust_remote_code=trust_remote_code)
    with translated(ModelError, f"{folder / _CONFIG}: is no configuration that works", *UNFIT):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    return config


def gguf_configuration(path: Path) -> PreTrainedConfig:
    """The same from a GGUF file's metadata. Raises ModelError."""
    with translated(ModelError, f"{path}: no model that transformers reads", *UNFIT):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return config
