"""What is filled in where prompt sets were left open, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import PydanticCustomError

DEFAULT_SETS = {
    "target": "mlabonne/harmful_behaviors",
    "control": "mlabonne/harmless_alpaca",
}
"""The field's data sets, used for a kind of prompts for which nothing is given."""


def filled_in(values: Mapping[str, object]) -> dict[str, object]:
    """Settings by field, with prompt sets filled in. Raises PydanticCustomError."""
    filled = dict(values)
    # Records of older versions have a second name for one data type, beside the list that holds it.
    filled.pop("dtype", None)
    given = {name for name, one in filled.items() if one is not None}
    for kind, data_set in DEFAULT_SETS.items():
        parts = [f"{kind}_{part}" for part in ("train", "search", "held_out")]
        parts = [name for name in parts if name in given]
        if kind in given:
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
            if needed not in given:
                raise contradiction(
                    f"needs {needed} beside it, or give one set as {kind}", parts[0]
                )
    return filled


def contradiction(message: str, *fields: str) -> PydanticCustomError:
    """An error about several settings at once; `gather` puts their places in front of it."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "fields": fields})
