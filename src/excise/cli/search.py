"""The search of a run on the screen: Ctrl+C stops it, and a table shows the Pareto front."""

from __future__ import annotations

from excise.app.run import Run
from excise.cli.interrupt import StopOnInterrupt
from excise.cli.screen import Screen
from excise.cli.tables import front_table


def search(run: Run, screen: Screen, trials: int | None = None) -> bool:
    """Search until the study holds `trials` (by default the settings'). Returns False after Ctrl+C.

    Raises KeyboardInterrupt with a message at the second Ctrl+C.
    """
    try:
        with StopOnInterrupt(screen.announce_stop) as interrupt:
            run.search(trials, interrupt.requested)
            return not interrupt.requested()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; every finished trial is kept; continue with the same command and "
            f"--run-dir {run.directory.path}"
        ) from None


def show_front(run: Run, screen: Screen) -> None:
    """Show the Pareto front as a table."""
    parameters = {trial.number: trial.parameters for trial in run.study.trials()}
    prompts = len(run.experiment.search_part.target)
    screen.show(front_table(run.front(), parameters, prompts))
