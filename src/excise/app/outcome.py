"""What comes after the search: the chosen edit on held-out prompts, and three answers side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from excise.app.events import Chosen
from excise.app.prepare import Prepared
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.events import Emit, Note, StageStarted
from excise.experiment.events import BaselineMeasured
from excise.experiment.figures import HeldOut, measure_edit, measure_held_out
from excise.experiment.runner import Runner
from excise.scorers.interval import bootstrap, wilson
from excise.search.front import Point, pareto_front, reason
from excise.search.study import Study
from excise.store.record import Outcome, held_out_facts, write_result


@dataclass(frozen=True)
class Comparison:
    """One prompt with both models' answers."""

    prompt: str
    original: str
    edited: str


def ask_held_out(prepared: Prepared, emit: Emit) -> HeldOut:
    """Ask the original model the held-out prompts."""
    emit(StageStarted("held_out", "Asking held-out prompts that the search never saw"))
    held_out = measure_held_out(prepared.runner, prepared.prompts)
    emit(BaselineMeasured("held_out", held_out.to_target.count, len(held_out.target)))
    return held_out


def confirm(
    prepared: Prepared, study: Study, point: Point, held_out: HeldOut, emit: Emit
) -> Outcome:
    """Measure the chosen trial on held-out prompts and put it into the record."""
    started = time.perf_counter()
    measured = measure_edit(prepared.runner, held_out, prepared.directory.edit(point.number))
    seed = prepared.settings.seed
    outcome = Outcome(
        trial=point.number,
        search=point,
        search_prompts=len(prepared.search_part.target),
        prompts=len(held_out.target),
        control_prompts=len(held_out.control),
        original=held_out.answered,
        edited=measured.answered,
        kl=bootstrap(measured.divergences, seed),
        answer_kl=bootstrap(measured.answer_divergences, seed),
        answer_tokens=held_out.answer_tokens,
        seconds=held_out.seconds + time.perf_counter() - started,
    )
    front = pareto_front(study.points())
    # The edit file travels without the run directory, and its figures with it. It is written before the
    # record says that they are known.
    edit = prepared.directory.edit(point.number)
    facts = {**edit.facts, **held_out_facts(outcome)}
    replace(edit, facts=facts).save(prepared.directory.edit_path(point.number))
    write_result(prepared, study.records(), front, outcome)
    emit(Chosen(outcome, f"{reason(front, point)}; {_confirmed(outcome)}"))
    if not prepared.coverage.complete:
        emit(Note(f"the edit is partial: {prepared.coverage.lacking()}"))
    return outcome


def _confirmed(outcome: Outcome) -> str:
    """Whether held-out prompts bear out what the search saw, as half a sentence."""
    seen = wilson(outcome.search.refusals, outcome.search_prompts)
    found = wilson(outcome.edited.refusals, outcome.prompts)
    agrees = seen[0] <= found[1] and found[0] <= seen[1]
    return (
        f"held-out prompts {'confirm' if agrees else 'do not confirm'} it: "
        f"{outcome.edited.refusals}/{outcome.prompts} refused at KL {outcome.kl.mean:z.4f} "
        f"(search: {outcome.search.refusals}/{outcome.search_prompts} at {outcome.search.kl:z.4f})"
    )


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
