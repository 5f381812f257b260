"""The command line's view of the settings: a flag for every field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from excise.config.settings import Settings
from excise.config.template import as_text
from excise.prompts.source import PromptSource

# `json` would shadow a method of pydantic's models; `--kind` takes one or several.
_PUBLIC_NAMES = {"json_lines": "json", "kinds": "kind"}
_METAVARS: dict[Any, str] = {
    int: "N",
    float: "NUMBER",
    str: "TEXT",
    Path: "PATH",
    PromptSource: "SET",
}


@dataclass(frozen=True)
class Flag:
    """One flag, with all that an argument parser needs to know about it."""

    name: str
    """As typed: `--max-new-tokens`."""
    field: str
    """Name of the field in `Settings`, and the key that `gather` takes."""
    description: str
    default: str
    """The default as text, empty where there is none."""
    is_switch: bool
    """True where the flag takes no value."""
    choices: tuple[str, ...]
    """The allowed values; empty where there is no fixed list. For a list, those of its elements."""
    metavar: str
    """What stands for the value in the help text; empty for a switch."""


def public_name(field: str) -> str:
    """The setting's name in `excise.toml`: the field's, but for `json` (json_lines) and `kind` (kinds)."""
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


def flags() -> tuple[Flag, ...]:
    """All flags, in the order in which the settings are declared. The model comes first."""
    return tuple(_flag(name, info) for name, info in Settings.model_fields.items())


def value_type(field: str) -> Any:
    """The type of a field's value, without `| None`."""
    annotation = Settings.model_fields[field].annotation
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not NoneType)
    return annotation


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


def _flag(name: str, info: FieldInfo) -> Flag:
    is_switch = info.annotation is bool
    return Flag(
        name=flag_name(name),
        field=name,
        description=info.description or "",
        default="" if is_switch else _default_text(info),
        is_switch=is_switch,
        choices=choices(name),
        metavar="" if is_switch else _metavar(name, info),
    )


def _default_text(info: FieldInfo) -> str:
    default = info.default
    if info.is_required() or default is None:
        return ""
    if isinstance(default, dict):
        return as_text(default)
    if isinstance(default, tuple):
        text = ",".join(default)
        return text if len(text) <= 60 else f"{len(default)} built in"
    return str(default)


def _metavar(name: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    if is_list(name):
        return "A,B,…"
    if choices(name):
        return "|".join(choices(name))
    return _METAVARS[value_type(name)]
