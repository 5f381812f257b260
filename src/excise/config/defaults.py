"""Default prompt sets, and errors of contradicting prompt settings."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import PydanticCustomError

DEFAULT_SETS = {"target": "mlabonne/harmful_behaviors", "control": "mlabonne/harmless_alpaca"}
"""The usual data sets of refusal research, for a kind without prompts from the user."""


def filled_in(values: Mapping[str, object]) -> dict[str, object]:
    """Settings by field, with default prompt sets. Raises PydanticCustomError."""
    filled = dict(values)
    # Records of older versions repeat the data type under this key.
    filled.pop("dtype", None)
    named = {name for name, value in filled.items() if value is not None}
    for kind, data_set in DEFAULT_SETS.items():
        parts = [f"{kind}_{part}" for part in ("train", "search", "held_out")]
        parts = [name for name in parts if name in named]
        if kind in named:
            if parts:
                raise contradiction(
                    "exclude each other; give the whole set or its parts", kind, parts[0]
                )
            continue
        if not parts:
            filled[f"{kind}_train"] = f"{data_set}:train[:400]"
            filled[f"{kind}_search"] = f"{data_set}:test[:100]"
            continue
        for needed in (f"{kind}_train", f"{kind}_search"):
            if needed not in named:
                raise contradiction(f"needs {needed} too, or give one set as {kind}", parts[0])
    return filled


def contradiction(message: str, *fields: str) -> PydanticCustomError:
    """An error about several settings; `gather` adds their places."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "fields": fields})
