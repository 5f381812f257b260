"""`excise runs`: the runs on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from excise.cli.human import plural
from excise.cli.screen import make_console, write_json
from excise.cli.stored import front_of
from excise.cli.tables import make_table
from excise.config import Inputs
from excise.errors import RunError
from excise.events import fields_of
from excise.search.front import Point
from excise.search.objective import DEFAULT
from excise.search.select import knee
from excise.search.study import DONE
from excise.store.directory import DEFAULT_ROOT, RunDirectory, all_runs
from excise.system.paths import expanded


@dataclass(frozen=True)
class Summary:
    """A run in short. front: fewest refusals first. remark: why the run cannot be shown, or empty."""

    path: str
    date: str
    model: str = ""
    trials: int = 0
    refusals: int | None = None
    prompts: int | None = None
    front: tuple[Point, ...] = ()
    chosen: int | None = None
    remark: str = ""


def runs(word: str | None, inputs: Inputs) -> int:
    """List the runs in a folder, by default `runs`. Returns the exit status."""
    as_json = inputs.settings(needs_model=False).json_lines
    root = expanded(word) if word else DEFAULT_ROOT
    if not root.is_dir() and word:
        raise RunError(f"{root}: no such folder")
    summaries = [summary(directory) for directory in all_runs(root)]
    if as_json:
        for each in summaries:
            write_json(fields_of(each))
    else:
        make_console().print(_table(summaries) if summaries else f"no runs in {root}")
    return 0


def summary(directory: RunDirectory) -> Summary:
    """A run directory in short; if it cannot be read, the remark is the reason."""
    date = datetime.fromtimestamp(_last_written(directory)).strftime("%Y-%m-%d %H:%M")
    found = Summary(str(directory.path), date)
    try:
        found = replace(found, model=directory.identity().model)
        if not directory.result.exists():
            return replace(found, remark="no trial yet")
        record: dict[str, Any] = directory.record()
    except RunError as error:
        return replace(found, remark=str(error))
    baseline, chosen = record["baseline"]["search"], record["chosen"]
    return replace(
        found,
        trials=sum(trial["state"] in DONE for trial in record["trials"]),
        refusals=int(baseline["refusals"]),
        prompts=int(baseline["prompts"]),
        front=tuple(front_of(record)),
        chosen=int(chosen["trial"]) if chosen else None,
    )


def _last_written(directory: RunDirectory) -> float:
    """When a file of the run was last written, in seconds since the epoch."""
    times = [directory.path.stat().st_mtime]
    for path in directory.path.iterdir():
        # A running search creates and deletes files, and a link may be broken.
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _told(point: Point, prompts: int | None) -> str:
    if point.objectives != DEFAULT:
        return point.told()
    return f"{point['refusals']}/{prompts} at KL {point['kl']:z.3f}"


def _table(summaries: Sequence[Summary]) -> Table:
    headings = ("trials", "baseline", "fewest", "knee", "chosen")
    title = plural(len(summaries), "run")
    table = make_table("run", "model", *headings, "last written", numbers=headings, title=title)
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for each in summaries:
        if each.remark:
            cells: list[str | Text] = [Text(each.remark, "yellow"), "", "", "", ""]
        else:
            best = (each.front[0], knee(each.front)) if each.front else ()
            cells = [
                str(each.trials),
                f"{each.refusals}/{each.prompts}",
                *[_told(point, each.prompts) for point in best],
                *["", ""][len(best) :],
                "" if each.chosen is None else str(each.chosen),
            ]
        table.add_row(each.path, each.model, *cells, each.date)
    return table
