"""Checks values against types with pydantic, and explains a wrong value in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from excise.errors import SettingsError, shortened

Item = TypeVar("Item")
NonEmpty = Annotated[tuple[Item, ...], Field(min_length=1)]
"""A tuple with at least one item."""
_LONGEST_VALUE = 80
_CLASSES = ConfigDict(arbitrary_types_allowed=True)
"""Values of classes that pydantic does not know are checked with `isinstance`."""
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
    "mapping_type": "not a table of KEY=VALUE",
    "model_type": "not a prompt set; write SOURCE, SOURCE:SPLIT or a table with source and split",
    "string_too_short": "must not be empty",
    "too_short": "must name at least {min_length}",
    "too_long": "must name at most {max_length}",
    "is_instance_of": "not a {class}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}
"""What is wrong, by the type of pydantic's error."""


def reason_of(error: ErrorDetails) -> str:
    """What is wrong with the value of one of pydantic's errors."""
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "literal_error":
        allowed = re.findall("'([^']*)'", context["expected"])
        return f"must be one of {', '.join(allowed)}{did_you_mean(str(error['input']), allowed)}"
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] == "too_short" and context["min_length"] == 1:
        return "must name at least one"
    if error["type"] in _MESSAGES:
        return _MESSAGES[error["type"]].format(**context)
    return error["msg"]


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A clause that suggests the nearest known word, or says `otherwise` without a near word."""
    names = {_MARK.sub("", name): name for name in known}
    near = difflib.get_close_matches(_MARK.sub("", word), names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {names[near[0]]}?"
    return f"; {otherwise}" if otherwise else ""


def checked(name: str, value: object, expected: Any) -> Any:
    """The value of a parameter as its type, which may have pydantic's limits.

    Lists, sets and arrays become tuples; a text is no list of its letters. Raises SettingsError.
    """
    return _converted(name, value, _adapter(expected))


def check_fields(options: Any) -> None:
    """Check each field of a frozen data class against its type, and keep it as that type. As `checked`."""
    kind: Any = type(options)  # mypy takes a class for unhashable.
    for name, adapter in _adapters(kind).items():
        object.__setattr__(options, name, _converted(name, getattr(options, name), adapter))


@cache
def _adapter(expected: Any) -> TypeAdapter[Any]:
    return TypeAdapter(expected, config=_CLASSES)


@cache
def _adapters(options: Any) -> dict[str, TypeAdapter[Any]]:
    types = get_type_hints(options, include_extras=True)
    return {
        field.name: TypeAdapter(types[field.name], config=_CLASSES) for field in fields(options)
    }


def _converted(name: str, value: object, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "tuple_type":
            reason = f"give a list, such as [{shortened(repr(value), _LONGEST_VALUE)}]"
        else:
            reason = reason_of(first)
        shown = shortened(repr(value), _LONGEST_VALUE)
        raise SettingsError(reason, setting=name, value=shown) from None
