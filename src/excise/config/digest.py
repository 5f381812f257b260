"""What of the settings decides what a study is."""

from __future__ import annotations

from excise.config.settings import Settings
from excise.store.identity import stored_digest

# How far a run goes, how it is carried out and where its results go: the same study can be
# continued with other values of these.
_NOT_OF_THE_STUDY = frozenset(
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
    )
)


def study_settings(settings: Settings) -> dict[str, object]:
    """The settings that decide what the study is, as plain JSON values."""
    stored = settings.model_dump(mode="json", exclude=set(_NOT_OF_THE_STUDY))
    # A setting that is younger than the format: a study without it is still the study that it was.
    if not stored["template_arguments"]:
        del stored["template_arguments"]
    return stored


def settings_digest(settings: Settings) -> str:
    """16 hexadecimal digits that two runs share exactly if their `study_settings` are equal."""
    return stored_digest(study_settings(settings))
