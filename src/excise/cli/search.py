"""The search of a run on the screen: Ctrl+C stops it, and a table shows the Pareto front."""

from __future__ import annotations

from excise.app.run import Run
from excise.cli.interrupt import StopOnInterrupt
from excise.cli.screen import Screen
from excise.cli.tables import disagreements_table, front_table
from excise.errors import JudgeError


def search(run: Run, screen: Screen, trials: int | None = None) -> bool:
    """Search until the study holds `trials` (by default the settings'). Returns False after Ctrl+C.

    Raises KeyboardInterrupt with a message at the second Ctrl+C.
    """
    try:
        with StopOnInterrupt(screen.announce_stop) as interrupt:
            run.search(trials, interrupt.requested)
            completed = not interrupt.requested()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; every finished trial is kept; continue with the same command and "
            f"--run-dir {run.directory.path}"
        ) from None
    return completed


def show_front(run: Run, screen: Screen) -> None:
    """Show the Pareto front as a table, judged again by the chosen judge. Raises JudgeError after that."""
    parameters = {trial.number: trial.parameters for trial in run.study.trials()}
    prompts = len(run.experiment.search_part.target)
    judged, failure = None, None
    try:
        judged = run.judge_front()
    except JudgeError as error:
        failure = error
    screen.show(front_table(run.front(), parameters, prompts, judged))
    if failure is not None:
        raise failure
    if judged is not None and judged.disagreements:
        screen.show(disagreements_table(judged))
