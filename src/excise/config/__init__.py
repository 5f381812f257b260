"""Settings from flags, the environment and `excise.toml`.

This room imports no slow library, because `excise --help` needs it.
"""

from __future__ import annotations

from excise.config.digest import settings_digest, study_settings
from excise.config.flags import flag_name
from excise.config.gather import Inputs, Stored, gather
from excise.config.settings import Settings
from excise.prompts.source import PromptSource

__all__ = [
    "Inputs",
    "PromptSource",
    "Settings",
    "Stored",
    "flag_name",
    "gather",
    "settings_digest",
    "study_settings",
]
