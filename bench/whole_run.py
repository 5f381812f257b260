"""A whole run as a user's defaults have it, by the clock."""

from __future__ import annotations

import statistics
import time

from excise.app.outcome import ask_held_out, confirm
from excise.app.prepare import prepare
from excise.config import Settings
from excise.events import ignore
from excise.search.front import pareto_front, select
from excise.search.loop import open_study, search


def whole_run(settings: Settings) -> tuple[float, float, str]:
    """Seconds of a whole run with its default search: prepared, searched, chosen, reported.

    And the median of its trials, and what there is to say of it.
    """
    started = time.perf_counter()
    prepared = prepare(settings, ignore)
    ready = time.perf_counter()
    study = open_study(prepared)
    search(prepared, study, ignore)
    searched = time.perf_counter()
    front = pareto_front(study.points())
    confirm(
        prepared,
        study,
        select(front, "knee"),
        ask_held_out(prepared, ignore),
        ignore,
    )
    ended = time.perf_counter()
    records = study.records()
    seconds = [record.seconds for record in records if record.seconds is not None]
    left = sum(record.state == "pruned" for record in records)
    said = (
        f"Preparation {ready - started:.0f} s, trials {searched - ready:.0f} s, held-out report "
        f"{ended - searched:.0f} s. {prepared.runner.slots} prompts and "
        f"{prepared.candidates} candidates at a time, as excise finds them. A trial took "
        f"{min(seconds):.1f} to {max(seconds):.1f} s, its share of the passes that it ran in; {left} of "
        f"{len(records)} were left early. Refusals and KL of the front: "
        + ", ".join(f"{one.refusals}: {one.kl:.3f}" for one in front)
        + "."
    )
    return ended - started, statistics.median(seconds), said
