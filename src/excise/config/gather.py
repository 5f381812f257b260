"""Settings from their places: first flags, then what a run recorded, the environment, `excise.toml`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from excise.config.explain import Given, did_you_mean, explain
from excise.config.flags import (
    field_names,
    flag_name,
    is_list,
    is_switch,
    is_table,
    value_type,
    variable_name,
)
from excise.config.settings import Settings
from excise.config.template import read_arguments
from excise.config.trust import is_typed, refuse_chosen_by_file, refuse_untyped, without_trust
from excise.errors import SettingsError, first_line
from excise.prompts.source import PromptSource
from excise.system.json_files import parse_json

TOML_NAME = "excise.toml"
_VARIABLE_PREFIX = "EXCISE_"
_TOML_POSITION = re.compile(r"(?P<message>.*) \(at (?P<position>line \d+, column \d+)\)", re.DOTALL)
_OF_BACKSLASHES = (
    "Unescaped '\\'",
    "Invalid hex value",
    "Invalid initial character for a key part",
)
"""How tomllib's messages begin where a backslash in double quotes is no escape."""

Layer = dict[str, Given]
"""Field name to the value that one of the places gives it."""


@dataclass(frozen=True)
class Stored:
    """Settings that a file of excise's own holds, such as the `run.json` of a run that is opened again.

    place: the file, for messages. values: by field, as JSON has them; None says that a setting was left
    open there, so that nothing that stands in the environment or in `excise.toml` counts for it.
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
    """Merge the places where settings come from: a flag first, then `stored`, the environment, the file.

    `flags` maps names of fields (or flags) to what was typed; None says that the flag was not given.
    Without `toml_path`, `excise.toml` of the working directory is read if there is one. A list in a
    flag or a variable is separated by commas, or a JSON list; a prompt set may be a JSON object.
    needs_model: False where no model is looked at; without one `Settings.model` is then empty.

    Raises:
        SettingsError: one line that names the place, what is wrong with it and what is allowed; or the
            place that asks, unlike the flags, to run code that comes with a model.
    """
    toml, typed = _from_toml(toml_path), _from_flags(flags)
    beneath = [toml, _from_environment(environment)]
    if stored is not None:
        beneath.append(_from_table(stored.place, stored.values))
    wishes: list[Given] = []
    given: Layer = {}
    for layer in beneath:
        safe, wish = without_trust(layer)
        wishes += [] if wish is None else [wish]
        given |= safe
    given |= typed
    refuse_untyped(wishes, is_typed(typed), given)
    refuse_chosen_by_file(is_typed(typed), toml, given)
    given = {field: one for field, one in given.items() if one.value is not None}
    if needs_model and "model" not in given:
        raise SettingsError(
            f"no model: name one (excise MODEL), set {variable_name('model')}, "
            f"or write model = … in {TOML_NAME}"
        )
    try:
        return Settings.model_validate({field: one.value for field, one in given.items()})
    except ValidationError as error:
        raise SettingsError(explain(error.errors(), given)) from None


def _from_flags(flags: Mapping[str, object]) -> Layer:
    given = []
    for key, value in flags.items():
        name = key.lstrip("-").replace("-", "_")
        place = flag_name(field_names().get(name, name))
        if value is not None:
            given.append((name, Given(value, place, f"{place}={value}")))
    return _layer(given, "flag", map(flag_name, Settings.model_fields))


def _from_environment(environment: Mapping[str, str]) -> Layer:
    given = [
        (place.removeprefix(_VARIABLE_PREFIX).lower(), Given(value, place, f"{place}={value}"))
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
            (key.replace("-", "_"), Given(value, f"{file}: {key}", f"{file}: {key} = {text}"))
        )
    return _layer(given, "setting", field_names())


def _layer(given: Iterable[tuple[str, Given]], noun: str, known: Iterable[str]) -> Layer:
    """What one place gives, by field. Raises SettingsError for an unknown name, or two of one setting."""
    layer: Layer = {}
    for name, one in given:
        field = field_names().get(name)
        if field is None:
            hint = did_you_mean(one.place.rpartition(": ")[2], known)
            raise SettingsError(f"{one.place}: no such {noun}{hint}")
        if field in layer:
            also = layer[field].place
            raise SettingsError(
                f"{one.place}: given twice, also as {also}; leave one of the two out"
            )
        layer[field] = replace(one, value=_decoded(field, one))
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


def _decoded(field: str, given: Given) -> object:
    """Take lists and tables out of the text that a flag or a variable can only hold."""
    value = given.value
    if isinstance(value, bool) and not is_switch(field):
        # pydantic would take true for the number 1.
        raise SettingsError(f"{given.assignment}: must not be true or false")
    if isinstance(value, dict) and not is_table(field):
        return {key.replace("-", "_"): one for key, one in value.items()}
    if not isinstance(value, str):
        return value
    text = value.strip()
    if is_list(field) and not text.startswith("["):
        return [one.strip() for one in text.split(",")]
    try:
        if is_table(field):
            return read_arguments(text)
        if is_list(field) or (value_type(field) is PromptSource and text.startswith("{")):
            return parse_json(text)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{given.place}: not JSON (character {error.pos + 1}): {error.msg}"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{given.place}: {error}") from None
    return value
