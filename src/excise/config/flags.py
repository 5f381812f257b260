"""Names of settings as flags, variables and keys, and the values that they take."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from excise.config.settings import Settings
from excise.config.template import as_text
from excise.prompts.source import PromptSource

# A field `json` would shadow a method of pydantic. Most users give one kind and one data type.
_PUBLIC_NAMES = {"json_lines": "json", "kinds": "kind", "dtypes": "dtype"}
_METAVARS: dict[Any, str] = {
    int: "N",
    float: "NUMBER",
    str: "TEXT",
    Path: "PATH",
    PromptSource: "SET",
}


def public_name(field: str) -> str:
    """The setting's name in `excise.toml`: the field's, but for `json`, `kind` and `dtype`."""
    return _PUBLIC_NAMES.get(field, field)


def field_names() -> dict[str, str]:
    """Every name of a setting, with underscores → the name of its field."""
    return {public_name(field): field for field in Settings.model_fields} | {
        field: field for field in Settings.model_fields
    }


def flag_name(field: str) -> str:
    """The flag of a field: `--max-new-tokens` for `max_new_tokens`."""
    return "--" + public_name(field).replace("_", "-")


def variable_name(field: str) -> str:
    """The environment variable of a field: `EXCISE_MAX_NEW_TOKENS` for `max_new_tokens`."""
    return "EXCISE_" + public_name(field).upper()


def value_type(field: str) -> Any:
    """The type of a field's value, without `| None`."""
    annotation = Settings.model_fields[field].annotation
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    return annotation


def is_switch(field: str) -> bool:
    """True if the field's flag takes no value."""
    return value_type(field) is bool


def is_list(field: str) -> bool:
    """True if the field holds several values."""
    return get_origin(value_type(field)) is tuple


def is_table(field: str) -> bool:
    """True if the field maps keys to values."""
    return get_origin(value_type(field)) is dict


def choices(field: str) -> tuple[str, ...]:
    """The allowed values of a field, its elements or its table's values; empty without a fixed list."""
    annotation = value_type(field)
    if is_list(field) or is_table(field):
        annotation = get_args(annotation)[-1 if is_table(field) else 0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def default_text(field: str) -> str:
    """The default for the help text; empty for a switch and for None."""
    info = Settings.model_fields[field]
    if info.is_required() or info.default is None or is_switch(field):
        return ""
    if isinstance(info.default, dict):
        return as_text(info.default)
    if isinstance(info.default, tuple):
        text = ",".join(info.default)
        return text if len(text) <= 60 else f"{len(info.default)} built in"
    return str(info.default)


def metavar(field: str) -> str:
    """The placeholder of the value in the help text; empty for a switch."""
    extra = Settings.model_fields[field].json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    if is_switch(field):
        return ""
    if is_list(field):
        return "A,B,…"
    return "|".join(choices(field)) or _METAVARS[value_type(field)]
