"""What work emits while it goes on: frozen values, one class a kind. Each room has classes of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def as_json(self) -> dict[str, object]:
        """The event as a JSON object: its class's name under "event", and its fields."""
        return {"event": type(self).__name__, **asdict(self)}


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
