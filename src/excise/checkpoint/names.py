"""The names that a checkpoint may store a tensor under."""

from __future__ import annotations

from collections.abc import Container


def possible_names(name: str) -> tuple[str, ...]:
    """The name with and without a leading `model.`; checkpoints of base models leave the prefix out."""
    return tuple(dict.fromkeys((name, name.removeprefix("model."), f"model.{name}")))


def stored_name(name: str, held: Container[str]) -> str | None:
    """The one of a name's possible_names that a checkpoint holds, None if it holds none."""
    return next((one for one in possible_names(name) if one in held), None)
