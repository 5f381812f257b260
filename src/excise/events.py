"""What work emits while it goes on: frozen values, one class a kind. Each room has classes of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class OwnJson(Protocol):
    """A value with a JSON form of its own, other than an object of its fields."""

    def as_json(self) -> dict[str, object]:
        """The value as a JSON object."""
        ...


def plain(value: object) -> object:
    """A value as JSON would hold it: values of classes become objects of their fields."""
    if isinstance(value, OwnJson):
        return value.as_json()
    if is_dataclass(value):
        return fields_of(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def fields_of(value: object) -> dict[str, object]:
    """The fields of a value of a class, as JSON would hold them."""
    assert is_dataclass(value)
    return {field.name: plain(getattr(value, field.name)) for field in fields(value)}


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def as_json(self) -> dict[str, object]:
        """The event as a JSON object: its class's name under "event", and its fields."""
        return {"event": type(self).__name__, **fields_of(self)}


Emit = Callable[[Event], None]
"""Takes an event: a screen, a log, a test's list."""


def ignore(event: Event) -> None:
    """The listener that does nothing."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage began. stage: load, baseline, directions, held_out or save; text: for people."""

    stage: str
    text: str


@dataclass(frozen=True)
class Note(Event):
    """Something worth knowing, in one sentence."""

    text: str
