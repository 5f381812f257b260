"""The page of the settings, made from the fields of `Settings`."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from excise.config import Settings
from excise.config.flags import flag_name

_INTRODUCTION = """\
# Settings

A setting has one name everywhere. `max_new_tokens` is `--max-new-tokens` on the command line,
`EXCISE_MAX_NEW_TOKENS` in the environment and `max_new_tokens` in `excise.toml` of the working directory. If
several of these places give a value, the command line wins over the environment, and the environment over
the file. A run that is opened again takes the settings that it was made with; only the command line wins
over them.

A list is separated by commas on the command line and in the environment. There, a table of values is
written as `KEY=VALUE,KEY=VALUE`. In `excise.toml` both are TOML's own lists and tables:

```toml
model = "./my-model"
target = "refused.txt"
control = "ordinary.txt"
trials = 60
markers = ["i'm sorry", "i cannot"]

[template_arguments]
enable_thinking = false
```

The site's build makes the rest of this page from the program. [Command line](command-line.md) says which
commands take which setting.

| setting | type | default | meaning |
|---|---|---|---|
"""
_BOUNDS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))
_LONGEST_DEFAULT = 6
"""Longest list that is shown whole as a default."""


def settings_page() -> str:
    """The page, as Markdown."""
    return _INTRODUCTION + "".join(
        _row(name, field) for name, field in Settings.model_fields.items()
    )


def _row(name: str, field: FieldInfo) -> str:
    cells = (
        f"`{flag_name(name).removeprefix('--').replace('-', '_')}`",
        _type_text(field.annotation) + _bounds(field.metadata),
        _default(field),
        field.description or "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type_text(annotation: object) -> str:
    """The type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "prompt set"
    words: dict[object, str] = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
    }
    return words[annotation]


def _bounds(metadata: Sequence[object]) -> str:
    found = [
        f"{sign} {getattr(one, attribute)}"
        for one in metadata
        for kind, attribute, sign in _BOUNDS
        if isinstance(one, kind)
    ]
    if any(isinstance(one, MinLen | MaxLen) for one in metadata):
        found.append("not empty")
    return f", {', '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == () or value == {} or value == "":
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        if len(value) > _LONGEST_DEFAULT:
            return f"{len(value)} built-in phrases"
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"
