"""The output of commands: events and tables for people, or JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
from typing import Self

from rich.console import Console, RenderableType

from excise.cli.interrupt import STOPPING
from excise.cli.printable import PrintableConsole, printable_json
from excise.cli.streams import write_json_in_utf8
from excise.events import Event

_WIDTH_OF_FILES = 160
"""Columns if standard output is a file or a pipe: wide, so that a log holds whole lines."""


class Screen:
    """Where a command shows its events and tables; used as a context. This one shows nothing."""

    def __call__(self, event: Event) -> None:
        """Show an event: a screen is the `Emit` of the work."""

    def show(self, renderable: RenderableType) -> None:
        """Show a table or a text to a person."""

    def announce_stop(self) -> None:
        """Say that the search stops after the running trial. Called from a signal handler."""
        write_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class JsonLines(Screen):
    """Writes each event as one line of JSON to standard output, and nothing else: tables are for people."""

    def __call__(self, event: Event) -> None:
        """Write an event."""
        write_json(event.as_json())


def write_json(content: object, *, indent: int | None = None) -> None:
    """Write a JSON value to standard output, at once."""
    write_json_in_utf8()
    text = json.dumps(content, ensure_ascii=False, default=str, indent=indent)
    print(printable_json(text), file=sys.stdout, flush=True)


def write_stop() -> None:
    """Announce the stop without Python's buffers, which the signal may have interrupted while they change."""
    os.write(2, f"{STOPPING}\n".encode())


def make_console(*, to_errors: bool = False) -> Console:
    """The console for people. to_errors: on standard error."""
    stream = sys.stderr if to_errors else sys.stdout
    terminal = stream is not None and stream.isatty()
    width = None if terminal else _WIDTH_OF_FILES
    return PrintableConsole(
        stderr=to_errors, width=width, highlight=False, markup=False, emoji=False
    )
