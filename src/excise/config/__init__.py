"""Frozen settings, from flags, the environment and `excise.toml`: one definition for all.

Nothing heavy may be imported in here: `excise --help` is built from it.
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
