"""The settings that name prompts."""

from __future__ import annotations

from excise.config.settings import Settings
from excise.prompts.read import KindSources, PromptDefaults, PromptSources


def prompt_sources(settings: Settings) -> PromptSources:
    """The places of the prompts that `settings` name."""
    return PromptSources(
        _of_kind(settings, "target"),
        _of_kind(settings, "control"),
        PromptDefaults(
            settings.column,
            settings.prefix,
            settings.suffix,
            settings.system_prompt,
            settings.group_by,
        ),
    )


def _of_kind(settings: Settings, kind: str) -> KindSources:
    parts = (kind, f"{kind}_train", f"{kind}_search", f"{kind}_held_out")
    return KindSources(*(getattr(settings, part) for part in parts))
