"""What a setting is called where it is given, and what values it takes."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from excise.config.settings import Settings
from excise.config.template import as_text
from excise.prompts.source import PromptSource

# `json` would shadow a method of pydantic's models. Of kinds and data types, one is what most people give.
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
    """Every name a setting can be given by, with underscores, to the name of its field."""
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
        (annotation,) = (one for one in get_args(annotation) if one is not NoneType)
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
    """The values a field, or each element of it, may have; empty where there is no fixed list."""
    annotation = value_type(field)
    if is_list(field):
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def default_text(field: str) -> str:
    """The default as the help text has it; empty for a switch and where the setting is left open."""
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
    """What stands for the value in the help text; empty for a switch."""
    extra = Settings.model_fields[field].json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    if is_switch(field):
        return ""
    if is_list(field):
        return "A,B,…"
    return "|".join(choices(field)) or _METAVARS[value_type(field)]
