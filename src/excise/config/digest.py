"""The settings that identify a study."""

from __future__ import annotations

from collections.abc import Mapping

from excise.config.settings import Settings
from excise.prompts.source import PromptSource
from excise.store.identity import stored_digest

# Settings of the search's length, its execution and its output: a study can be continued with other values.
_FREE = frozenset(
    (
        "device",
        "max_memory",
        "offload_folder",
        "trials",
        "search_seconds",
        "seeds",
        "batch_size",
        "candidates",
        "exhaustive",
        "judge",
        "judge_labels",
        "judge_concurrency",
        "judge_timeout",
        "judge_key",
        "run_dir",
        "select",
        "save",
        "adapter",
        "no_hardware",
        "packed",
        "yes",
        "json_lines",
        "config_only",
        "allow_partial",
        "allow_absent",
        "report",
    )
)


UNSTORED: Mapping[str, object] = {
    "template_arguments": {},
    "group_by": None,
    "objectives": list(Settings.model_fields["objectives"].default),
}
"""Settings newer than the format, and their values that are not stored: older studies keep their digest."""


def study_settings(settings: Settings) -> dict[str, object]:
    """The settings that identify the study, as plain JSON values."""
    stored = settings.model_dump(mode="json", exclude=set(_FREE))
    for field, value in UNSTORED.items():
        if stored[field] == value:
            del stored[field]
    for field, value in settings:
        if isinstance(value, PromptSource) and value.group_by is None:
            stored[field].pop("group_by", None)
    # Settings of scorers that are only reported change no trial.
    scorers = {
        name: stored["scorers"][name] for name in settings.objectives if name in settings.scorers
    }
    del stored["scorers"]
    return {**stored, "scorers": scorers} if scorers else stored


def settings_digest(settings: Settings) -> str:
    """16 hexadecimal digits that two runs share exactly if their `study_settings` are equal."""
    return stored_digest(study_settings(settings))
