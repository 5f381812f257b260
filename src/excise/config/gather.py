"""Gathers settings from flags, a stored file, the environment and `excise.toml`, in this order."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from excise.config.explain import explain
from excise.config.flags import (
    field_names,
    flag_name,
    is_list,
    is_switch,
    is_table,
    value_type,
    variable_name,
)
from excise.config.places import PlacedValue
from excise.config.settings import Settings
from excise.config.template import read_arguments
from excise.config.trust import (
    is_typed,
    refuse_chosen_by_file,
    refuse_named_code,
    refuse_server_from_file,
    refuse_untyped,
    without_trust,
)
from excise.errors import SettingsError, first_line
from excise.prompts.source import PromptSource
from excise.system.json_files import parse_json
from excise.validation import did_you_mean

TOML_NAME = "excise.toml"
_VARIABLE_PREFIX = "EXCISE_"
_TOML_POSITION = re.compile(r"(?P<message>.*) \(at (?P<position>line \d+, column \d+)\)", re.DOTALL)
_OF_BACKSLASHES = (
    "Unescaped '\\'",
    "Invalid hex value",
    "Invalid initial character for a key part",
)
"""Beginnings of tomllib's messages for a backslash in double quotes that is no escape."""

Layer = dict[str, PlacedValue]
"""Field name → the value from one place."""


@dataclass(frozen=True)
class Stored:
    """Settings from a file that excise wrote, such as `run.json`.

    place: the file, for messages. values: by field, as JSON; None means that the setting was left open, which
    also overrides the environment and `excise.toml`.
    """

    place: str
    values: Mapping[str, object]


@dataclass(frozen=True)
class Inputs:
    """The flags and environment variables that a command was called with."""

    flags: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def with_flags(self, **flags: object) -> Inputs:
        """The same with further flags, by field, which replace others."""
        return replace(self, flags={**self.flags, **flags})

    def settings(self, stored: Stored | None = None, *, needs_model: bool = True) -> Settings:
        """`gather` with `excise.toml` of the working directory."""
        return gather(self.flags, self.environment, None, stored, needs_model=needs_model)


def gather(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    toml_path: Path | None,
    stored: Stored | None = None,
    *,
    needs_model: bool = True,
) -> Settings:
    """Merge settings from all places: flags, then `stored`, the environment, and `excise.toml`.

    flags: names of fields or flags → typed text; None for a flag that was not typed. A list is a JSON list or
    separated by commas; a prompt set may be a JSON object. toml_path: None reads `excise.toml` of the working
    directory if it exists. needs_model: False allows an empty `Settings.model`.

    Raises SettingsError with one line: the place, the mistake and the allowed values. Only flags may allow
    code that comes with a model; elsewhere that is a mistake.
    """
    toml, typed = _from_toml(toml_path), _from_flags(flags)
    layers = [toml, _from_environment(environment)]
    if stored is not None:
        layers.append(_from_table(stored.place, stored.values))
    requests: list[PlacedValue] = []
    values: Layer = {}
    for layer in layers:
        safe, request = without_trust(layer)
        requests += [] if request is None else [request]
        values |= safe
    values |= typed
    refuse_untyped(requests, is_typed(typed), values)
    refuse_chosen_by_file(is_typed(typed), toml, values)
    refuse_named_code(typed, values)
    refuse_server_from_file(toml)
    values = {field: each for field, each in values.items() if each.value is not None}
    if needs_model and "model" not in values:
        raise SettingsError(
            f"no model: name it (excise MODEL), set {variable_name('model')}, "
            f"or write model = … in {TOML_NAME}"
        )
    try:
        return Settings.placed(values)
    except ValidationError as error:
        raise SettingsError(explain(error.errors(), values)) from None


def _from_flags(flags: Mapping[str, object]) -> Layer:
    given = []
    for key, value in flags.items():
        name = key.lstrip("-").replace("-", "_")
        place = flag_name(field_names().get(name, name))
        if value is not None:
            given.append((name, PlacedValue(value, place, f"{place}={value}")))
    return _layer(given, "flag", map(flag_name, Settings.model_fields))


def _from_environment(environment: Mapping[str, str]) -> Layer:
    given = [
        (
            place.removeprefix(_VARIABLE_PREFIX).lower(),
            PlacedValue(value, place, f"{place}={value}"),
        )
        for place, value in environment.items()
        if place.startswith(_VARIABLE_PREFIX)
    ]
    return _layer(given, "setting", map(variable_name, Settings.model_fields))


def _from_toml(path: Path | None) -> Layer:
    if path is None:
        path = Path(TOML_NAME)
        if not path.exists():
            return {}
    return _from_table(str(path), _read_toml(path))


def _from_table(file: str, table: Mapping[str, object]) -> Layer:
    given = []
    for key, value in table.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        given.append(
            (key.replace("-", "_"), PlacedValue(value, f"{file}: {key}", f"{file}: {key} = {text}"))
        )
    return _layer(given, "setting", field_names())


def _layer(given: Iterable[tuple[str, PlacedValue]], noun: str, known: Iterable[str]) -> Layer:
    """The values from one place, by field. Raises SettingsError for an unknown name or a repeated setting."""
    layer: Layer = {}
    for name, value in given:
        field = field_names().get(name)
        if field is None:
            lists = f"excise --help lists the {noun}s"
            hint = did_you_mean(value.place.rpartition(": ")[2], known, lists)
            raise SettingsError(f"{value.place}: no such {noun}{hint}")
        if field in layer:
            also = layer[field].place
            raise SettingsError(
                f"{value.place}: given twice, also as {also}; leave one of them out"
            )
        layer[field] = replace(value, value=_decoded(field, value))
    return layer


def _read_toml(path: Path) -> dict[str, object]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {first_line(error)}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SettingsError(f"{path}: not TOML: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        found = _TOML_POSITION.fullmatch(str(error))
        message = found["message"] if found else str(error).removesuffix(" (at end of document)")
        position = (
            found["position"] if found else f"line {text.rstrip().count(chr(10)) + 1}, at the end"
        )
        if "\\" in text and message.startswith(_OF_BACKSLASHES):
            message += (
                "; write paths in single quotes, as 'C:\\models', where \\ is an ordinary character"
            )
        raise SettingsError(f"{path}: {position}: not TOML: {message}") from None


def _decoded(field: str, placed: PlacedValue) -> object:
    """The value of a setting; lists and tables are parsed from text."""
    value = placed.value
    if isinstance(value, bool) and not is_switch(field):
        # pydantic would read true as the number 1.
        raise SettingsError(f"{placed.assignment}: must not be true or false")
    if isinstance(value, dict) and not is_table(field):
        return {key.replace("-", "_"): each for key, each in value.items()}
    if not isinstance(value, str):
        return value
    text = value.strip()
    if is_list(field) and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    try:
        if is_table(field):
            return read_arguments(text)
        if is_list(field) or (value_type(field) is PromptSource and text.startswith("{")):
            return parse_json(text)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{placed.place}: not JSON (character {error.pos + 1}): {error.msg}"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{placed.place}: {error}") from None
    return value
