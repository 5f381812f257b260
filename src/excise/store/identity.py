"""The identity of a study: its model, prompts and the settings that decide its figures.

This module imports no slow library, because `excise.config` needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from excise.store.shape import Shape

_ABSENT = "nothing"


class Identity(Shape):
    """The contents of `run.json`, without format and checksum.

    model: its name. model_digest, prompts_digest: identify weights and prompts. settings: plain JSON values;
    settings_digest: their `stored_digest`.
    """

    model: str
    model_digest: str
    prompts_digest: str
    settings_digest: str
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, model: str, settings: Mapping[str, object], *, weights: str, prompts: str
    ) -> Identity:
        """The identity of a study. weights, prompts: their digests."""
        return cls(
            model=model,
            model_digest=weights,
            prompts_digest=prompts,
            settings_digest=stored_digest(settings),
            settings=dict(settings),
        )

    @property
    def trusts_code(self) -> bool:
        """Whether the settings allow code of the model to run."""
        return self.settings.get("trust_remote_code") is True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the study searches, as the settings name them."""
        kinds = self.settings.get("kinds")
        return tuple(map(str, kinds)) if isinstance(kinds, list) else ()

    @property
    def names_prompts(self) -> bool:
        """Whether the settings name the source of the prompts; prompts given in memory have no source."""
        return any(self.settings.get(name) for name in ("target", "target_train"))

    def with_settings(self, settings: Mapping[str, object]) -> Identity:
        """The identity with other settings."""
        digest = stored_digest(settings)
        return self.model_copy(update={"settings": dict(settings), "settings_digest": digest})


def stored_digest(settings: Mapping[str, object]) -> str:
    """A hash, 16 hexadecimal digits, over settings."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """The settings that differ between `a`, the stored settings ("there"), and `b`, the present ones
    ("here").

    A line is for example "kind: orthogonal there, discriminant here". Tables are compared by key; for lists,
    the line names elements that only one side has.
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
            if (only := [value for value in mine if value not in other])
        ]
        return "; ".join(lacking) or "in another order"
    return f"{_text(there)} there, {_text(here)} here"


def _text(value: object) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value, ensure_ascii=False) if value == "" else str(value)
