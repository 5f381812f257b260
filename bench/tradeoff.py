"""Fronts of excise and of heretic on three models, measured on held-out prompts: `python bench/tradeoff.py`.

For each model: heretic's own search (60 trials), excise's search, and, on the first model, the closed form of
every kind and of every ablation (bench/ablations.py).
Then every edit on a front is measured by the same code on prompts that no search saw. Every stage keeps
its results under build/bench/tradeoff, so that an interrupted benchmark goes on where it was. The page is
written by bench/tradeoff_page.py.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.ablations import ABLATIONS, ablation
from bench.heretic_edits import LowRank
from bench.machine import described
from bench.peers import HereticRun, heretic_python, run_heretic
from bench.timed import score
from bench.tradeoff_cases import CASES, ROOT, TOKENS, WORK, Case, prompt_files, settings_of
from excise.app.run import Run, prepare
from excise.config import Settings
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import TrialError
from excise.events import Event, ignore
from excise.experiment.bank import edit_of
from excise.experiment.figures import (
    Original,
    measure_changed,
    measure_edit,
)
from excise.kinds import KINDS
from excise.scorers.scorer import Score
from excise.search.events import TrialFinished
from excise.search.front import Point, pareto_front
from excise.search.scoring import Bound
from excise.search.start import closed_form_of

HERETIC_TRIALS = 60
TRIALS = 30
MEASURED = 8
"""Edits of a front that are measured on held-out prompts, spread over it; our first trial is always one."""


@dataclass(frozen=True)
class Row:
    """One edit. refusals, kl: on search prompts. processor_seconds: of all threads, from the start on.

    dominated: a trial that an earlier one beats; its refusals are then a lower bound.
    """

    tool: str
    label: str
    refusals: int
    prompts: int
    kl: float
    processor_seconds: float
    dominated: bool = False
    held_out: dict[str, object] | None = None


def excise_rows(settings: Settings, tool: str) -> tuple[Run, list[Row], list[Point]]:
    """One whole run: its trials with the processor time at which each was there, and its front."""
    started = time.process_time()
    stamps = settings.run_dir.with_suffix(".json")  # type: ignore[union-attr]
    known: list[dict[str, object]] = json.loads(stamps.read_text()) if stamps.exists() else []
    before = float(str(known[-1]["processor_seconds"])) if known else 0.0

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished) and not event.failed:
            refusals, kl = (event.values[name] or 0.0 for name in ("refusals", "kl"))
            took = before + time.process_time() - started
            row = Row(
                tool,
                str(event.number),
                round(refusals),
                event.prompts,
                kl,
                took,
                event.dominated,
            )
            known.append(asdict(row))
            stamps.write_text(json.dumps(known))
            print(f"{tool} {event.number}: {refusals}, {kl:.4f}, {took:.0f} s", flush=True)

    run = prepare(settings, listen)
    run.search()
    return run, [Row(**row) for row in known], run.front()  # type: ignore[arg-type]


def closed_forms(run: Run, tool: str) -> list[Row]:
    """The closed form of every kind that the bank holds, scored on the search prompts."""
    rows: list[Row] = []
    anatomy = run.experiment.anatomy
    writers = anatomy.names * run.settings.directions
    with VirtualEdits(run.loaded.model, writers) as edits:
        for kind in run.settings.kinds:
            edit = edit_of(closed_form_of(kind, anatomy), run.experiment.bank, anatomy)
            rows.append(_scored(run, edits, edit, tool))
    return rows


def ablated(run: Run, tool: str) -> list[Row]:
    """The closed form of the discriminant with the operators of each ablation, scored likewise."""
    rows: list[Row] = []
    anatomy, form = (
        run.experiment.anatomy,
        closed_form_of("discriminant", run.experiment.anatomy),
    )
    assert form.ridge is not None
    edit = edit_of(form, run.experiment.bank, anatomy)
    with VirtualEdits(run.loaded.model, anatomy.names) as edits:
        for kind in ABLATIONS:
            operator = ablation(run.experiment, kind, form.ridge)
            other = replace(edit, kind=kind, u=operator.u, v=operator.v)
            rows.append(_scored(run, edits, other, tool))
    return rows


def _scored(run: Run, edits: VirtualEdits, edit: Edit, tool: str) -> Row:
    part = run.experiment.search_part
    (scored,) = score(run.experiment.runner, edits, [edit], part, Bound())
    if isinstance(scored, TrialError):
        raise scored
    print(f"{tool} {edit.kind}: {scored.refusals}, {scored.kl:.4f}", flush=True)
    return Row(tool, edit.kind, scored.refusals, len(part.target), scored.kl, 0.0)


def thinned(front: Sequence[Point], prompts: int, always: int | None = None) -> list[Point]:
    """At most MEASURED points with no more than 60 % refusals, spread evenly over the front.

    always: number of a trial that is one of them, beyond MEASURED if need be, while it is on the front.
    """
    useful = [point for point in front if point["refusals"] <= 0.6 * prompts]
    step = max(1.0, (len(useful) - 1) / (MEASURED - 1))
    taken = {useful[round(place * step)].number for place in range(min(MEASURED, len(useful)))}
    return [point for point in useful if point.number in taken | {always}]


COUNTED = ("refusals", "control_refusals", "empty", "looping")


def counts(scores: Mapping[str, Score]) -> dict[str, object]:
    """The figures that count prompts."""
    return {name: round(scores[name].value) for name in COUNTED}


def held_out_figures(scores: Mapping[str, Score]) -> dict[str, object]:
    """What the page needs of a measurement."""
    return {
        **counts(scores),
        "prompts": scores["refusals"].n,
        "kl": scores["kl"].value,
        "answer_kl": scores["answer_kl"].value,
    }


def measured_rows(
    run: Run, held_out: Original, rows: Sequence[Row], points: Sequence[Point]
) -> list[Row]:
    """The rows of these points of an excise run, with held-out figures."""
    found: list[Row] = []
    for point in points:
        row = next(row for row in rows if row.label == str(point.number))
        edit, scorers = run.directory.edit(point.number), run.experiment.reported
        measured = measure_edit(run.experiment.runner, held_out, edit, scorers, seed=0)
        found.append(Row(**{**asdict(row), "held_out": held_out_figures(measured)}))
        print(f"{row.tool} {row.label} held out: {found[-1].held_out}", flush=True)
    return found


def heretic_rows(run: Run, held_out: Original, peer: HereticRun, prompts: int) -> list[Row]:
    """heretic's trials, those on its front with held-out figures measured by excise's code."""
    clock = peer.start_processor_seconds
    rows: dict[int, Row] = {}
    for trial in peer.trials:
        clock += trial.processor_seconds
        rows[trial.number] = Row(
            "heretic", str(trial.number), trial.refusals, prompts, trial.kl, clock
        )
    front = pareto_front([Point(trial.number, (trial.refusals, trial.kl)) for trial in peer.trials])
    for point in thinned(front, prompts):
        change = LowRank(run.loaded.model, peer.trials[point.number].matrices)
        scorers = run.experiment.reported
        measured = measure_changed(run.experiment.runner, held_out, change.switch, scorers, seed=0)
        row = rows[point.number]
        rows[point.number] = Row(**{**asdict(row), "held_out": held_out_figures(measured)})
        print(f"heretic {row.label} held out: {rows[point.number].held_out}", flush=True)
    return list(rows.values())


def run_case(case: Case, environment: Path) -> None:
    """heretic's search, ours and the closed forms; the results go to a JSON file beside the runs."""
    result = WORK / f"{case.name}.json"
    if result.exists():
        return
    model = case.model()
    heretic = heretic_run(case, environment)
    tpe = settings_of(case, model, heretic.markers, "tpe", trials=TRIALS)
    run, rows, front = excise_rows(tpe, "excise, TPE")
    held_out = run.experiment.held_out
    part = run.experiment.search_part
    kept = [*rows, *measured_rows(run, held_out, rows, thinned(front, len(part.target), 0))]
    kept += heretic_rows(run, held_out, heretic, len(part.target))
    if case.every_kind:
        every = settings_of(case, model, heretic.markers, "kinds", kinds=",".join(KINDS))
        of_every = prepare(every, ignore)
        kept += closed_forms(of_every, "closed form") + ablated(of_every, "closed form")
        pair = settings_of(case, model, heretic.markers, "pair", directions=2)
        kept += closed_forms(prepare(pair, ignore), "closed form, two directions")
    content = {
        "case": case.name,
        "title": case.title,
        "machine": described(),
        "original": {
            **counts(held_out.scores),
            "prompts": len(held_out.prompts["target"]),
            "search_refusals": part.refusals,
            "search_prompts": len(part.target),
        },
        "tokens": TOKENS,
        "rows": [asdict(row) for row in kept],
    }
    result.write_text(json.dumps(content, indent=1), encoding="utf-8")


def heretic_run(case: Case, environment: Path) -> HereticRun:
    """heretic's run of a case, read back if there is one."""
    return run_heretic(
        heretic_python(environment),
        WORK / case.name / "heretic",
        case.model(),
        prompt_files(case),
        tokens=TOKENS,
        trials=HERETIC_TRIALS,
        markers=case.markers.read_text(encoding="utf-8").split() if case.markers else None,
        batch=100,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--heretic", type=Path, default=ROOT / "build" / "bench" / "heretic")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case.name in options.cases:
            run_case(case, options.heretic)


if __name__ == "__main__":
    main()
