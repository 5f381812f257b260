"""A whole run as a user's defaults have it, by the clock."""

from __future__ import annotations

import statistics
import time

from excise.app.run import prepare
from excise.config import Settings
from excise.events import ignore
from excise.search.select import select


def whole_run(settings: Settings) -> tuple[float, float, str]:
    """Seconds of a whole run with its default search: prepared, searched, chosen, reported.

    And the median of its trials, and what there is to say of it.
    """
    started = time.perf_counter()
    run = prepare(settings, ignore)
    ready = time.perf_counter()
    run.search()
    searched = time.perf_counter()
    front = run.front()
    run.choose(select(front, "knee"))
    ended = time.perf_counter()
    trials, experiment = run.study.trials(), run.experiment
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    left = sum(trial.state == "pruned" for trial in trials)
    said = (
        f"Preparation {ready - started:.0f} s, trials {searched - ready:.0f} s, held-out report "
        f"{ended - searched:.0f} s. {experiment.runner.slots} prompts and "
        f"{experiment.candidates} candidates at a time, as excise finds them. A trial took "
        f"{min(seconds):.1f} to {max(seconds):.1f} s, its share of the passes that it ran in; {left} of "
        f"{len(trials)} were left early. Refusals and KL of the front: "
        + ", ".join(f"{one['refusals']}: {one['kl']:.3f}" for one in front)
        + "."
    )
    return ended - started, statistics.median(seconds), said
