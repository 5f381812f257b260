"""Whether code that comes with a model may run: only the command line can say so, no file and no variable."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from excise.config.explain import Given
from excise.errors import SettingsError

FIELD = "trust_remote_code"
_NAMES_THE_CODE = ("model", "revision")
"""What decides which code it is that runs."""


def without_trust(layer: Mapping[str, Given]) -> tuple[dict[str, Given], Given | None]:
    """A layer of settings that were not typed, without the wish to run code; and that wish, if it holds one.

    A value that is neither true nor false stays where it is, to be told with other mistakes.
    """
    rest = dict(layer)
    wish = rest.get(FIELD)
    wanted = None if wish is None else _truth(wish.value)
    if wanted is None:
        return rest, None
    del rest[FIELD]
    return rest, wish if wanted else None


def is_typed(flags: Mapping[str, Given]) -> bool:
    """True if the flags hold the wish to run code."""
    return FIELD in flags and _truth(flags[FIELD].value) is True


def _truth(value: object) -> bool | None:
    """True or false in any of the ways a setting may be written; None if it is neither."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return None


def refuse_untyped(wishes: list[Given], typed: bool, named: Mapping[str, Given]) -> None:
    """Raise SettingsError for a wish to run code that does not stand on the command line too.

    named: the settings in force, which say whose code it is.
    """
    if not wishes or typed:
        return
    model, revision = (named[field].value if field in named else None for field in _NAMES_THE_CODE)
    whose = f"{model or 'a model'}{f' (revision {revision})' if revision else ''}"
    raise SettingsError(
        f"{wishes[-1].place}: asks to run code that comes with {whose}, which counts only where it is typed; "
        "read that code, and type --trust-remote-code on this command line to run it"
    )


def refuse_chosen_by_file(
    typed: bool, file: Mapping[str, Given], named: Mapping[str, Given]
) -> None:
    """Raise SettingsError if code was trusted on the command line, but `excise.toml` says whose it is.

    A revision is enough: on the hub anybody can offer one of a model that others own. file: what that file
    gives. named: the settings in force.
    """
    for field in _NAMES_THE_CODE if typed else ():
        if field in file and named.get(field) is file[field]:
            raise SettingsError(
                f"{file[field].assignment}: decides whose code --trust-remote-code runs, so it has to be "
                "typed beside it"
            )
