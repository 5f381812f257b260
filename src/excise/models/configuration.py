"""A checkpoint's configuration, loaded by transformers."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from excise.checkpoint.trust import require_trust
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
