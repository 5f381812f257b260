"""What of the settings decides what a study is: to tell one study from another, and say why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from excise.config.settings import Settings

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
_ABSENT = "nothing"


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


def stored_digest(stored: Mapping[str, object]) -> str:
    """`settings_digest` of settings whose `study_settings` were stored."""
    canonical = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """Name the settings that differ: `a` is the stored side ("there"), `b` the present ("here").

    Each line reads "kind: orthogonal there, discriminant here". Tables are compared key by key; of
    lists, only the elements that one side lacks are named.
    """
    there, here = _flatten(a), _flatten(b)
    keys = [*there, *(key for key in here if key not in there)]
    return [
        f"{key}: {_contrast(there.get(key), here.get(key))}"
        for key in keys
        if there.get(key) != here.get(key)
    ]


def _flatten(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _contrast(there: object, here: object) -> str:
    if isinstance(there, list) and isinstance(here, list):
        sides = ((there, here, "there"), (here, there, "here"))
        lacking = [
            f"{', '.join(map(_text, only))} only {side}"
            for mine, other, side in sides
            if (only := [one for one in mine if one not in other])
        ]
        return "; ".join(lacking) or "in another order"
    return f"{_text(there)} there, {_text(here)} here"


def _text(value: object) -> str:
    if value is None:
        return _ABSENT
    return json.dumps(value, ensure_ascii=False) if value == "" else str(value)
