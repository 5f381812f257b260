"""The live view of a search: progress, the trial in hand, the last trials, the best trade-offs."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from excise.cli.describe import refusals_text
from excise.cli.human import duration, plural, sizes
from excise.cli.interrupt import STOPPING
from excise.cli.parameters import short
from excise.cli.tables import kl_text
from excise.search.events import SearchStarted, TrialFinished, TrialStarted, WorkDone

_LAST_TRIALS = 5
_BEST = 8
_BAR_WIDTH = 40
_RECENT = 30.0
"""Seconds of work over which tokens a second are taken."""


class SearchView:
    """What is known of the search; `render` is called by another thread, twice a second.

    Every attribute is replaced in one step, never changed in place, so the two threads need no lock.
    """

    def __init__(self, started: SearchStarted) -> None:
        self.stopping = False
        self._done, self._trials = started.done, started.trials
        self._began = self._heard = time.monotonic()
        self._in_hand: tuple[TrialStarted, ...] = ()
        self._last: tuple[TrialFinished, ...] = ()
        self._recent: tuple[WorkDone, ...] = ()

    def trial_started(self, event: TrialStarted) -> None:
        """A trial is being scored."""
        self._in_hand, self._heard = (*self._in_hand, event), time.monotonic()

    def trial_finished(self, event: TrialFinished) -> None:
        """A trial was scored."""
        self._last = (*self._last, event)[-_LAST_TRIALS:]
        self._done, self._heard = event.done, time.monotonic()
        self._in_hand = tuple(one for one in self._in_hand if one.number != event.number)

    def work_done(self, event: WorkDone) -> None:
        """The model was run on something."""
        kept = (*self._recent, event)
        while sum(one.seconds for one in kept[1:]) > _RECENT:
            kept = kept[1:]
        self._recent = kept

    def render(self) -> RenderableType:
        """The view as it is now."""
        last, in_hand = self._last, self._in_hand
        parts: list[RenderableType] = [self._progress()]
        if throughput := self._throughput():
            parts.append(Text(throughput))
        if in_hand:
            waited = duration(time.monotonic() - self._heard)
            first = in_hand[0]
            parts.append(
                Text(f"trial {first.number} in hand, {waited} · {short(first.parameters)}")
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
                left = max(0.0, newest.remaining - (now - self._heard))
                facts.append(f"about {duration(left)} left")
            facts.append(f"peak memory {sizes(newest.peak_memory)}")
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._trials, completed=self._done, width=_BAR_WIDTH)
        grid.add_row("search", bar, Text(" · ".join(facts)))
        return grid

    def _throughput(self) -> str:
        """What the model was run on lately, in one line; empty while that is unknown."""
        recent = self._recent
        seconds = sum(one.seconds for one in recent)
        if not seconds:
            return ""
        newest = recent[-1]
        return (
            f"{sum(one.tokens for one in recent) / seconds:,.0f} tokens/s · "
            f"{plural(newest.candidates, 'candidate')} and {plural(newest.prompts, 'prompt')} under way"
        )


def _last_trials(last: tuple[TrialFinished, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="last trials", title_justify="left")
    for heading in ("trial", "refusals", "KL", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("parameters", no_wrap=True)
    for event in reversed(last):
        if event.refusals is None or event.kl is None:
            table.add_row(
                str(event.number), "–", "–", duration(event.seconds), f"failed: {event.reason}"
            )
        else:
            table.add_row(
                str(event.number),
                refusals_text(event),
                kl_text(event.kl),
                duration(event.seconds),
                short(event.parameters),
            )
    return table


def _best(newest: TrialFinished) -> Table:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title="best trade-offs so far", title_justify="left"
    )
    for heading in ("trial", "refusals", "KL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in newest.front[:_BEST]:
        table.add_row(str(point.number), f"{point.refusals}/{newest.prompts}", kl_text(point.kl))
    more = len(newest.front) - _BEST
    if more > 0:
        table.add_row("", f"and {more} more", "")
    return table
