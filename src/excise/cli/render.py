"""The screen for people: lines for events, and on a terminal a live view of the search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.status import Status
from rich.text import Text

from excise.app.events import Chosen
from excise.benchmarks.events import BenchmarkProgress
from excise.cli.describe import Line, describe
from excise.cli.live import SearchView
from excise.cli.screen import JsonLines, Screen, make_console, write_stop
from excise.cli.tables import group_tables, outcome_table
from excise.config import Settings
from excise.events import Event, StageStarted
from excise.saving.events import Saved
from excise.search.events import SearchEnded, SearchStarted, TrialFinished, TrialStarted, WorkDone

_LABEL_WIDTH = 11
_REFRESHES_A_SECOND = 2


class Renderer(Screen):
    """Prints events as lines; on a terminal, a spinner shows the stage and a live view the search."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._live: Live | None = None
        self._view: SearchView | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        # Spinner and live view need a terminal that can move its cursor.
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._follow(event)
        else:
            self._write(event)
        if isinstance(event, Chosen):
            self.show(outcome_table(event.outcome))
            for table in group_tables(event.outcome.groups, "held_out"):
                self.show(table)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or a text."""
        self._still()
        self._console.print(renderable)

    def announce_stop(self) -> None:
        """In the live view, which its own thread draws; without a live view on standard error."""
        if self._view is not None:
            self._view.stopping = True
        else:
            write_stop()

    def __exit__(self, *exception: object) -> None:
        self._still()

    def _follow(self, event: Event) -> None:
        """On a terminal: spinner and live view show what passes; the other events are printed."""
        match event:
            case StageStarted():
                self._still()
                self._status = self._console.status(
                    Text(f"{event.text} …"), spinner=self._spinner()
                )
                self._status.start()
            case BenchmarkProgress() if self._status is not None:
                done = f"{event.done:,} of {event.requests:,} requests"
                self._status.update(Text(f"Benchmarks: {done} …"))
            case SearchStarted():
                self._still()
                self._view = SearchView(event)
                self._live = Live(
                    console=self._console,
                    get_renderable=self._view.render,
                    refresh_per_second=_REFRESHES_A_SECOND,
                    transient=True,
                )
                self._live.start()
            case TrialStarted() if self._view is not None:
                self._view.trial_started(event)
            case TrialFinished() if self._view is not None:
                self._view.trial_finished(event)
            case WorkDone() if self._view is not None:
                self._view.work_done(event)
            case SearchEnded() | Chosen() | Saved():
                self._still()
                self._write(event)
            case _:
                self._write(event)

    def _spinner(self) -> str:
        """Name of rich's spinner. The usual spinner needs braille characters, which few encodings have."""
        return "line" if self._console.options.ascii_only else "dots"

    def _write(self, event: Event) -> None:
        for line in describe(event):
            self._console.print(_text(line), soft_wrap=True)

    def _still(self) -> None:
        """Remove spinner and live view from the terminal."""
        if self._status is not None:
            self._status.stop()
        if self._live is not None:
            self._live.stop()
        self._status = self._live = self._view = None


def _text(line: Line) -> Text:
    return Text.assemble((f"{line.label:<{_LABEL_WIDTH}} ", "bold"), (line.text, line.style))


@contextmanager
def make_screen(settings: Settings) -> Iterator[Screen]:
    """The screen that the settings ask for: JSON lines for programs, or lines for people.

    In this context, errors about a setting name the place of its value.
    """
    made = JsonLines() if settings.json_lines else Renderer(make_console())
    with settings.naming_places(), made as screen:
        yield screen


@contextmanager
def screen_beside_result(settings: Settings) -> Iterator[Renderer]:
    """As `make_screen`, for a command with one result: with --json, standard output holds only that value."""
    made = Renderer(make_console(to_errors=settings.json_lines))
    with settings.naming_places(), made as screen:
        yield screen
