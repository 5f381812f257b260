"""The live view of a search: progress, the running trial, the last trials, the best trade-offs."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from excise.cli.describe import value_texts
from excise.cli.human import duration, plural, sizes
from excise.cli.interrupt import STOPPING
from excise.cli.parameters import short
from excise.cli.tables import make_table, point_cells, value_cell
from excise.search.events import SearchStarted, TrialFinished, TrialStarted, WorkDone
from excise.search.front import title_of

_LAST_TRIALS = 5
_BEST = 8
_BAR_WIDTH = 40
_RECENT = 30.0
"""Seconds of work over which tokens a second are averaged."""


class SearchView:
    """The state of the search, which another thread renders.

    No attribute is changed in place, so the threads need no lock.
    """

    def __init__(self, started: SearchStarted) -> None:
        self.stopping = False
        self._done, self._trials = started.done, started.trials
        self._began = self._updated = time.monotonic()
        self._running: tuple[TrialStarted, ...] = ()
        self._last: tuple[TrialFinished, ...] = ()
        self._recent: tuple[WorkDone, ...] = ()

    def trial_started(self, event: TrialStarted) -> None:
        """A trial started."""
        self._running, self._updated = (*self._running, event), time.monotonic()

    def trial_finished(self, event: TrialFinished) -> None:
        """A trial was scored."""
        self._last = (*self._last, event)[-_LAST_TRIALS:]
        self._done, self._updated = event.done, time.monotonic()
        self._running = tuple(trial for trial in self._running if trial.number != event.number)

    def work_done(self, event: WorkDone) -> None:
        """The model ran a batch."""
        kept = (*self._recent, event)
        while sum(work.seconds for work in kept[1:]) > _RECENT:
            kept = kept[1:]
        self._recent = kept

    def render(self) -> RenderableType:
        """The view of the present state."""
        last, running = self._last, self._running
        parts: list[RenderableType] = [self._progress()]
        if throughput := self._throughput():
            parts.append(Text(throughput))
        if running:
            waited = duration(time.monotonic() - self._updated)
            first = running[0]
            parts.append(
                Text(f"trial {first.number} running, {waited} · {short(first.parameters)}")
            )
        if last:
            parts += ["", _last_trials(last), "", _best(last[-1])]
        if self.stopping:
            parts.append(Text(STOPPING, "bold yellow"))
        return Group(*parts)

    def _progress(self) -> RenderableType:
        now = time.monotonic()
        facts = [f"{self._done}/{self._trials} trials", duration(now - self._began)]
        if self._last:
            newest = self._last[-1]
            if newest.remaining is not None:
                left = max(0.0, newest.remaining - (now - self._updated))
                facts.append(f"about {duration(left)} left")
            facts.append(f"peak memory {sizes(newest.peak_memory)}")
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._trials, completed=self._done, width=_BAR_WIDTH)
        grid.add_row("search", bar, Text(" · ".join(facts)))
        return grid

    def _throughput(self) -> str:
        """Tokens a second and batch size of recent work; empty before the first batch."""
        recent = self._recent
        seconds = sum(work.seconds for work in recent)
        if not seconds:
            return ""
        newest = recent[-1]
        return (
            f"{sum(work.tokens for work in recent) / seconds:,.0f} tokens/s · "
            f"{plural(newest.candidates, 'candidate')} and {plural(newest.prompts, 'prompt')} under way"
        )


def _plain_table(title: str, *headings: str) -> Table:
    return make_table(*headings, numbers=headings, title=title, box=None, padding=(0, 2, 0, 0))


def _last_trials(last: tuple[TrialFinished, ...]) -> Table:
    names = list(last[-1].values)
    table = _plain_table("last trials", "trial", *map(title_of, names), "time")
    table.add_column("parameters", no_wrap=True)
    for event in reversed(last):
        if event.failed:
            cells = (*("–" for _ in names), duration(event.seconds), f"failed: {event.reason}")
            table.add_row(str(event.number), *cells)
        else:
            time_and_parameters = duration(event.seconds), short(event.parameters)
            table.add_row(str(event.number), *value_cells(event), *time_and_parameters)
    return table


def value_cells(event: TrialFinished) -> list[Text]:
    """The values of a scored trial."""
    return [
        value_cell(name, event.values[name] or 0.0, text)
        for name, text in value_texts(event).items()
    ]


def _best(newest: TrialFinished) -> Table:
    table = _plain_table("best trade-offs so far", "trial", *map(title_of, newest.values))
    for point in newest.front[:_BEST]:
        table.add_row(str(point.number), *point_cells(point, newest.prompts))
    more = len(newest.front) - _BEST
    if more > 0:
        table.add_row("", f"and {more} more")
    return table
