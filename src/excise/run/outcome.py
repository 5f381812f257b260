"""What comes after the search: the chosen edit on held-out prompts, and three answers side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass

from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.run import events
from excise.run.events import Tell
from excise.run.prepare import Prepared
from excise.run.record import Outcome, write_result
from excise.run.runner import Part, Runner, measure_original
from excise.search.front import Point, pareto_front
from excise.search.study import Study


@dataclass(frozen=True)
class HeldOut:
    """The original model on held-out prompts; asked once, whatever number of edits is compared to it."""

    part: Part
    control_refusals: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """One prompt with both models' answers."""

    prompt: str
    original: str
    edited: str


def measure_held_out(prepared: Prepared, tell: Tell) -> HeldOut:
    """Ask the original model the held-out prompts."""
    tell(events.StageStarted("held_out", "Asking held-out prompts that the search never saw"))
    started = time.perf_counter()
    prompts = prepared.prompts
    part = measure_original(prepared.runner, prompts.target.held_out, prompts.control.held_out)
    control = prepared.runner.refusals(part.control).count
    tell(events.BaselineMeasured("held_out", part.refusals, len(part.target)))
    return HeldOut(part, control, time.perf_counter() - started)


def confirm(
    prepared: Prepared, study: Study, point: Point, held_out: HeldOut, tell: Tell
) -> Outcome:
    """Measure the chosen trial on held-out prompts and put it into the record."""
    started = time.perf_counter()
    runner, part = prepared.runner, held_out.part
    edit = prepared.directory.edit(point.number)
    with VirtualEdits(prepared.loaded.model, edit.writers) as edits:
        edits.use(edit)
        kl = part.divergence(runner)
        refusals = runner.refusals(part.target).count
        control_refusals = runner.refusals(part.control).count
    outcome = Outcome(
        trial=point.number,
        search=point,
        search_prompts=len(prepared.search_part.target),
        refusals=refusals,
        prompts=len(part.target),
        kl=kl,
        control_refusals=control_refusals,
        control_prompts=len(part.control),
        original_refusals=part.refusals,
        original_control_refusals=held_out.control_refusals,
        seconds=held_out.seconds + time.perf_counter() - started,
    )
    write_result(prepared, study.records(), pareto_front(study.points()), outcome)
    tell(events.Chosen(outcome))
    if not prepared.coverage.complete:
        tell(events.Note(f"the edit is partial: {prepared.coverage.lacking()}"))
    return outcome


def side_by_side(
    runner: Runner, edit: Edit, prompts: tuple[str, ...], tokens: list[list[int]]
) -> list[Comparison]:
    """Whole answers of the original and the edited model to a few prompts."""
    original = runner.refusals(tokens, whole_answers=True).answers
    with VirtualEdits(runner.model, edit.writers) as edits:
        edits.use(edit)
        edited = runner.refusals(tokens, whole_answers=True).answers
    return [
        Comparison(prompt, before.strip(), after.strip())
        for prompt, before, after in zip(prompts, original, edited, strict=True)
    ]
