"""A progress bar for searches without another listener, in terminals and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from excise.events import Emit, Event, StageStarted
from excise.search.events import SearchStarted, TrialFinished
from excise.search.objective import DEFAULT


@contextmanager
def progress_bar() -> Iterator[Emit]:
    """A context with a progress bar; gives the listener that moves it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal or console.is_jupyter),
    )
    with bar:
        task = bar.add_task("Search", total=None)

        def emit(event: Event) -> None:
            match event:
                case StageStarted():
                    bar.update(task, description=event.text)
                case SearchStarted():
                    bar.update(task, description="Search", total=event.trials, completed=event.done)
                case TrialFinished():
                    bar.update(task, description=_front_text(event), completed=event.done)

        yield emit


def _front_text(event: TrialFinished) -> str:
    if not event.front:
        return "Search"
    best = event.front[0]
    if best.objectives != DEFAULT:
        return f"Search: {best.told()}"
    return f"Search: {best['refusals']}/{event.prompts} refused at KL {best['kl']:.3f}"
