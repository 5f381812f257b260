"""Permission to run code that comes with a model, which only a flag on the command line can give."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from excise.config.places import PlacedValue
from excise.errors import SettingsError

FIELD = "trust_remote_code"
_IDENTIFY_CODE = ("model", "revision")
"""The settings that decide whose code runs."""
_NAME_CODE = ("objectives", "report")
"""Settings whose elements may be classes of modules, `module:Class`."""


def without_trust(
    layer: Mapping[str, PlacedValue],
) -> tuple[dict[str, PlacedValue], PlacedValue | None]:
    """Settings without the permission to run code, and the request for that permission, if any.

    An invalid value stays in the settings, where it is reported like other mistakes.
    """
    rest = dict(layer)
    request = rest.get(FIELD)
    requested = None if request is None else _truth(request.value)
    if requested is None:
        return rest, None
    del rest[FIELD]
    return rest, request if requested else None


def is_typed(flags: Mapping[str, PlacedValue]) -> bool:
    """True if the flags allow code to run."""
    return FIELD in flags and _truth(flags[FIELD].value) is True


def _truth(value: object) -> bool | None:
    """A setting as true or false; None if it is neither."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return None


def refuse_untyped(
    requests: list[PlacedValue], typed: bool, named: Mapping[str, PlacedValue]
) -> None:
    """Raise SettingsError for a request to run code without the flag.

    named: the merged settings, which name the code.
    """
    if not requests or typed:
        return
    model, revision = (named[field].value if field in named else None for field in _IDENTIFY_CODE)
    whose = f"{model or 'a model'}{f' (revision {revision})' if revision else ''}"
    raise SettingsError(
        f"{requests[-1].place}: asks to run code that comes with {whose}; only a flag can allow it; "
        "read that code, and type --trust-remote-code on this command line to run it"
    )


def refuse_named_code(flags: Mapping[str, PlacedValue], named: Mapping[str, PlacedValue]) -> None:
    """Raise SettingsError if anything but a flag names a class of a module, whose code would run.

    named: the merged settings.
    """
    for field in _NAME_CODE:
        placed = named.get(field)
        if placed is None or flags.get(field) is placed:
            continue
        names = placed.value if isinstance(placed.value, list | tuple) else [placed.value]
        if any(":" in str(name) for name in names):
            raise SettingsError(
                f"{placed.assignment}: names code, and only a flag can let it run; read that code, and type "
                f"--{field} on this command line"
            )


def refuse_server_from_file(file: Mapping[str, PlacedValue]) -> None:
    """Raise SettingsError if `excise.toml` names a server that judges, or the variable of its key.

    The folder may be somebody else's, and the server gets all answers and the key. file: the settings of that
    file.
    """
    named = file.get("judge")
    if named is not None and str(named.value).startswith("openai:"):
        raise SettingsError(
            f"{named.place}: names a server, which gets the answers and a key; only --judge or EXCISE_JUDGE "
            "can name it"
        )
    if (key := file.get("judge_key")) is not None:
        raise SettingsError(
            f"{key.place}: decides which key a server gets; only --judge-key or EXCISE_JUDGE_KEY can"
        )


def refuse_chosen_by_file(
    typed: bool, file: Mapping[str, PlacedValue], named: Mapping[str, PlacedValue]
) -> None:
    """Raise SettingsError if a flag allows code to run but `excise.toml` names the model or the revision.

    On the hub, anybody can propose a revision of a model of others. file: the settings of that file. named:
    the merged settings.
    """
    for field in _IDENTIFY_CODE if typed else ():
        if field in file and named.get(field) is file[field]:
            raise SettingsError(
                f"{file[field].assignment}: decides whose code --trust-remote-code runs; type it as a flag "
                "too"
            )
