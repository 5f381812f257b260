"""Places that the values of settings came from: flags, variables, keys of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from excise.errors import ExciseError

_LONGEST_VALUE = 80


@dataclass(frozen=True)
class PlacedValue:
    """A value and the place that it came from."""

    value: object
    place: str
    """For example `--trials`, `EXCISE_TRIALS`, `excise.toml: trials`."""
    assignment: str
    """The place with the value: `--trials=abc`."""

    def told(self, reason: str) -> str:
        """The line of an error about this value."""
        return f"{on_one_line(self.assignment)}: {reason}"


@dataclass(frozen=True)
class Places:
    """The places of settings, by field. All compare equal: a value counts, not where it came from."""

    of: Mapping[str, PlacedValue] = field(default_factory=dict, compare=False)


@contextmanager
def naming(places: Mapping[str, PlacedValue]) -> Iterator[None]:
    """A context in which an error about a setting names the place of its value.

    places: of the settings, by field. An error about a setting that has its default value stays as it is.
    """
    try:
        yield
    except ExciseError as error:
        placed = places.get(error.setting)
        if placed is None:
            raise
        raise type(error)(placed.told(error.reason)) from error


def on_one_line(text: str) -> str:
    """The text on one line, cut to a bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_VALUE else line[: _LONGEST_VALUE - 1] + "…"
