"""Settings from their places: first flags, then what a run recorded, the environment, `excise.toml`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from excise.config.explain import Given, did_you_mean, explain
from excise.config.flags import (
    field_names,
    flag_name,
    is_list,
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


def gather(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    toml_path: Path | None,
    stored: Stored | None = None,
) -> Settings:
    """Merge the places where settings come from: a flag first, then `stored`, the environment, the file.

    `flags` maps names of fields (or flags) to what was typed; None says that the flag was not given.
    Without `toml_path`, `excise.toml` of the working directory is read if there is one. A list in a
    flag or a variable is separated by commas, or a JSON list; a prompt set may be a JSON object.

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
        given = _over(given, safe)
    given = _over(given, typed)
    refuse_untyped(wishes, is_typed(typed), given)
    refuse_chosen_by_file(is_typed(typed), toml, given)
    given = {field: one for field, one in given.items() if one.value is not None}
    if "model" not in given:
        raise SettingsError(
            f"no model: name one (excise MODEL), set {variable_name('model')}, "
            f"or write model = … in {TOML_NAME}"
        )
    try:
        return Settings.model_validate({field: one.value for field, one in given.items()})
    except ValidationError as error:
        raise SettingsError(explain(error.errors(), given)) from None


def _over(given: Layer, nearer: Layer) -> Layer:
    """`given`, overridden by the layer of a nearer place."""
    if nearer.keys() & {"dtype", "dtypes"}:
        # Two spellings of one setting: the nearer place overrides the other, however spelt.
        given = {field: one for field, one in given.items() if field not in ("dtype", "dtypes")}
    return given | nearer


def _from_flags(flags: Mapping[str, object]) -> Layer:
    layer: Layer = {}
    for key, value in flags.items():
        if value is None:
            continue
        name = key.lstrip("-").replace("-", "_")
        field = field_names().get(name)
        if field is None:
            typed = "--" + name.replace("_", "-")
            known = (flag_name(one) for one in Settings.model_fields)
            raise SettingsError(f"{typed}: no such flag{did_you_mean(typed, known)}")
        place = flag_name(field)
        if field in layer:
            raise SettingsError(f"{place}: given twice; leave one of the two out")
        layer[field] = Given(_decoded(field, value, place), place, f"{place}={value}")
    return layer


def _from_environment(environment: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for place, value in environment.items():
        if not place.startswith(_VARIABLE_PREFIX):
            continue
        field = field_names().get(place.removeprefix(_VARIABLE_PREFIX).lower())
        if field is None:
            known = (variable_name(one) for one in Settings.model_fields)
            raise SettingsError(f"{place}: no such setting{did_you_mean(place, known)}")
        if field in layer:
            raise SettingsError(f"{place}: given twice, also as {layer[field].place}; unset one")
        layer[field] = Given(_decoded(field, value, place), place, f"{place}={value}")
    return layer


def _from_toml(path: Path | None) -> Layer:
    if path is None:
        path = Path(TOML_NAME)
        if not path.exists():
            return {}
    return _from_table(str(path), _read_toml(path))


def _from_table(place: str, table: Mapping[str, object]) -> Layer:
    layer: Layer = {}
    for key, value in table.items():
        field = field_names().get(key.replace("-", "_"))
        if field is None:
            known = field_names()
            raise SettingsError(f"{place}: {key}: no such setting{did_you_mean(key, known)}")
        if field in layer:
            raise SettingsError(f"{place}: {key}: given twice; leave one of the two out")
        if isinstance(value, bool) and value_type(field) is not bool:
            # pydantic would take true for the number 1.
            raise SettingsError(f"{place}: {key} = {json.dumps(value)}: must not be true or false")
        if isinstance(value, dict) and not is_table(field):
            value = {inner.replace("-", "_"): one for inner, one in value.items()}
        assignment = f"{place}: {key} = {json.dumps(value, ensure_ascii=False, default=str)}"
        layer[field] = Given(value, f"{place}: {key}", assignment)
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


def _decoded(field: str, value: object, place: str) -> object:
    """Take lists and tables out of the text that a flag or a variable can only hold."""
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
        raise SettingsError(f"{place}: not JSON (character {error.pos + 1}): {error.msg}") from None
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None
    return value
