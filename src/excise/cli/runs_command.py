"""`excise runs`: what is on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from excise.cli.human import plural
from excise.cli.screen import make_console, write_json
from excise.cli.stored import front_of
from excise.config import Inputs
from excise.errors import RunError
from excise.search.front import Point, knee
from excise.search.study import DONE
from excise.store.directory import DEFAULT_ROOT, RunDirectory, all_runs
from excise.system.paths import expanded


@dataclass(frozen=True)
class Summary:
    """A run in a few words. front: fewest refusals first. remark: what is wrong with it, if anything."""

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
    """List the runs under a folder, by default `runs`. Returns the exit status."""
    as_json = inputs.settings(needs_model=False).json_lines
    root = expanded(word) if word else DEFAULT_ROOT
    if not root.is_dir() and word:
        raise RunError(f"{root}: no such folder")
    summaries = [summary(directory) for directory in all_runs(root)]
    if as_json:
        for one in summaries:
            write_json(asdict(one))
    elif summaries:
        make_console().print(_table(summaries))
    else:
        make_console().print(f"no runs in {root}")
    return 0


def summary(directory: RunDirectory) -> Summary:
    """What a run directory holds. One that cannot be read has its reason as the remark."""
    date = datetime.fromtimestamp(_last_written(directory)).strftime("%Y-%m-%d %H:%M")
    path = str(directory.path)
    model = ""
    try:
        model = directory.identity().model
        if not directory.result.exists():
            return Summary(path, date, model, remark="no trial yet")
        return _summary(directory.record(), path, date, model)
    except RunError as error:
        return Summary(path, date, model, remark=str(error))


def _summary(record: Mapping[str, Any], path: str, date: str, model: str) -> Summary:
    baseline, chosen = record["baseline"]["search"], record["chosen"]
    return Summary(
        path=path,
        date=date,
        model=model,
        trials=sum(trial["state"] in DONE for trial in record["trials"]),
        refusals=int(baseline["refusals"]),
        prompts=int(baseline["prompts"]),
        front=tuple(front_of(record)),
        chosen=int(chosen["trial"]) if chosen else None,
    )


def _last_written(directory: RunDirectory) -> float:
    """When a file of the run was written last, in seconds since the epoch."""
    times = [directory.path.stat().st_mtime]
    for path in directory.path.iterdir():
        # Beside a search files come and go, and a link may lead nowhere.
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _table(summaries: Sequence[Summary]) -> Table:
    table = Table(title=plural(len(summaries), "run"), title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("model", overflow="fold")
    for heading in ("trials", "baseline", "fewest", "knee", "chosen"):
        table.add_column(heading, justify="right")
    table.add_column("last written")
    for one in summaries:
        if one.remark:
            table.add_row(one.path, one.model, Text(one.remark, "yellow"), *[""] * 4, one.date)
            continue
        table.add_row(
            one.path,
            one.model,
            str(one.trials),
            f"{one.refusals}/{one.prompts}",
            _point(one.front[0], one.prompts) if one.front else "",
            _point(knee(one.front), one.prompts) if one.front else "",
            "" if one.chosen is None else str(one.chosen),
            one.date,
        )
    return table


def _point(point: Point, prompts: int | None) -> str:
    return f"{point.refusals}/{prompts} at KL {point.kl:z.3f}"
