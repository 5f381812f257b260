"""Explains an invalid setting in one line, instead of pydantic's several lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from excise.config.flags import flag_name
from excise.config.places import PlacedValue, on_one_line
from excise.prompts.source import PromptSource
from excise.validation import did_you_mean, reason_of


def explain(errors: Sequence[ErrorDetails], values: Mapping[str, PlacedValue]) -> str:
    """One line for the first of pydantic's errors: the place, the mistake, the allowed values.

    A misspelt key comes before a missing key, because the misspelling may be the cause.
    """
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    error = (unknown or errors)[0]
    context: dict[str, Any] = error.get("ctx", {})
    if error["type"] == "contradiction":
        places = [_place(field, values) for field in context["fields"]]
        return f"{' and '.join(places)}: {context['message']}"
    field, *inner = error["loc"]
    keys = [str(key) for key in inner if not isinstance(key, int)]
    if keys:
        # The line names the key inside a table instead of the whole table.
        where = ".".join([_place(str(field), values), *keys])
        if error["type"] == "missing":
            return f"{where}: missing; name the source of the prompts"
        if error["type"] == "extra_forbidden":
            known = tuple(PromptSource.model_fields)
            hint = did_you_mean(keys[-1], known, f"its keys are {', '.join(known)}")
            return f"{where}: no such key{hint}"
        where += f" = {json.dumps(error['input'], ensure_ascii=False, default=str)}"
    else:
        where = values[str(field)].assignment if field in values else flag_name(str(field))
    return f"{on_one_line(where)}: {reason_of(error)}"


def _place(field: str, values: Mapping[str, PlacedValue]) -> str:
    return values[field].place if field in values else flag_name(field)
