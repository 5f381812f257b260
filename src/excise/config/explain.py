"""Explains an invalid setting in one line, instead of pydantic's several lines."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from excise.config.flags import choices, flag_name
from excise.config.places import PlacedValue, on_one_line
from excise.prompts.source import PromptSource

_MARK = re.compile("^(EXCISE_|--)")
"""The beginning of a variable or a flag, which says nothing about the likeness of two names."""
_MESSAGES = {
    "int_parsing": "not a whole number",
    "int_parsing_size": "too large a number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "finite_number": "not a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "not a text",
    "path_type": "not a path",
    "tuple_type": "not a list",
    "dict_type": "not a table of KEY=VALUE",
    "model_type": "not a prompt set; write SOURCE, SOURCE:SPLIT or a table with source and split",
    "string_too_short": "must not be empty",
    "too_short": "must name at least one",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}


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
    return f"{on_one_line(where)}: {_reason(error, context, str(field))}"


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A clause that suggests the nearest known word, or says `otherwise` without a near word."""
    names = {_MARK.sub("", name): name for name in known}
    near = difflib.get_close_matches(_MARK.sub("", word), names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {names[near[0]]}?"
    return f"; {otherwise}" if otherwise else ""


def _reason(error: ErrorDetails, context: Mapping[str, Any], field: str) -> str:
    if error["type"] == "literal_error":
        allowed = choices(field)
        return f"must be one of {', '.join(allowed)}{did_you_mean(str(error['input']), allowed)}"
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] in _MESSAGES:
        return _MESSAGES[error["type"]].format(**context)
    return error["msg"]


def _place(field: str, values: Mapping[str, PlacedValue]) -> str:
    return values[field].place if field in values else flag_name(field)
