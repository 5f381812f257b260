"""What commands write to: events as they come, and tables. For people, or as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from typing import Protocol

from rich.console import Console, RenderableType

from excise.cli.interrupt import STOPPING
from excise.cli.printable import PrintableConsole, printable_json
from excise.cli.streams import write_json_in_utf8
from excise.events import Event

_WIDTH_OF_FILES = 160
"""Columns where standard output is no terminal: nothing should be cut off in a log."""


class Screen(Protocol):
    """A scope to write in. Called with each event, so that it is the run's `Emit`."""

    def __call__(self, event: Event) -> None:
        """Show an event."""

    def show(self, renderable: RenderableType) -> None:
        """Show something made for people; a screen for programs leaves it out."""

    def announce_stop(self) -> None:
        """Say that the search stops after the trial in hand. Called from a signal handler."""

    def __enter__(self) -> Screen:
        """Begin."""

    def __exit__(self, *exception: object) -> None:
        """Leave nothing moving on the terminal."""


class JsonLines:
    """One JSON object a line on standard output, and nothing else there."""

    def __call__(self, event: Event) -> None:
        """Write an event."""
        write_json(event.as_json())

    def show(self, renderable: RenderableType) -> None:
        """Tables are for people: what they say came as events."""

    def announce_stop(self) -> None:
        """Say so on standard error."""
        write_stop()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


def write_json(content: object, *, indent: int | None = None) -> None:
    """Write a JSON value to standard output, at once."""
    write_json_in_utf8()
    text = json.dumps(content, ensure_ascii=False, default=str, indent=indent)
    print(printable_json(text), file=sys.stdout, flush=True)


def write_stop() -> None:
    """Announce the end of the search past all buffers: a signal may have come in the middle of one."""
    os.write(2, f"{STOPPING}\n".encode())


def make_console(*, to_errors: bool = False) -> Console:
    """Where people read: as wide as the terminal, or wide enough for a file."""
    stream = sys.stderr if to_errors else sys.stdout
    terminal = stream is not None and stream.isatty()
    width = None if terminal else _WIDTH_OF_FILES
    return PrintableConsole(
        stderr=to_errors, width=width, highlight=False, markup=False, emoji=False
    )
