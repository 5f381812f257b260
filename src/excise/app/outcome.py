"""Measures the chosen edit on held-out prompts, and compares answers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from excise.app.events import Chosen
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.events import Note
from excise.experiment.experiment import Experiment
from excise.experiment.figures import measure_edit
from excise.experiment.groups import held_out_groups
from excise.experiment.runner import Runner
from excise.scorers.statistics import bootstrap, wilson
from excise.search.front import Point, pareto_front, reason
from excise.store.outcome import Outcome
from excise.store.stored_study import StoredStudy


@dataclass(frozen=True)
class Comparison:
    """A prompt with the answers of both models."""

    prompt: str
    original: str
    edited: str


def confirm(experiment: Experiment, store: StoredStudy, point: Point) -> Outcome:
    """Measure a trial on held-out prompts and record it as the chosen trial."""
    held_out, seed = experiment.held_out, experiment.options.seed
    started = time.perf_counter()
    measured = measure_edit(experiment.runner, held_out, store.directory.edit(point.number))
    outcome = Outcome(
        trial=point.number,
        search=point,
        search_prompts=len(experiment.search_part.target),
        prompts=len(held_out.target),
        control_prompts=len(held_out.control),
        original=held_out.answered,
        edited=measured.answered,
        kl=bootstrap(measured.divergences, seed),
        answer_kl=bootstrap(measured.answer_divergences, seed),
        answer_tokens=held_out.answer_tokens,
        groups=held_out_groups(experiment.prompts, held_out, measured, seed),
        seconds=held_out.seconds + time.perf_counter() - started,
    )
    store.choose(experiment.describe(store), outcome)
    front = pareto_front(store.study.points())
    experiment.emit(Chosen(outcome, f"{reason(front, point)}; {_confirmed(outcome)}"))
    if not experiment.coverage.complete:
        experiment.emit(Note(f"the edit is partial: {experiment.coverage.lacking()}"))
    return outcome


def _confirmed(outcome: Outcome) -> str:
    """Whether held-out prompts confirm the figures of the search, as a clause."""
    search = wilson(outcome.search.refusals, outcome.search_prompts)
    held_out = wilson(outcome.edited.refusals, outcome.prompts)
    agrees = search[0] <= held_out[1] and held_out[0] <= search[1]
    return (
        f"held-out prompts {'confirm' if agrees else 'do not confirm'} it: "
        f"{outcome.edited.refusals}/{outcome.prompts} refused at KL {outcome.kl.mean:z.4f} "
        f"(search: {outcome.search.refusals}/{outcome.search_prompts} at {outcome.search.kl:z.4f})"
    )


def side_by_side(
    runner: Runner, edit: Edit, prompts: tuple[str, ...], tokens: list[list[int]]
) -> list[Comparison]:
    """Whole answers of the original and of the edited model to the prompts."""
    original = runner.refusals(tokens, whole_answers=True).answers
    with VirtualEdits(runner.model, edit.writers) as edits:
        edits.use(edit)
        edited = runner.refusals(tokens, whole_answers=True).answers
    return [
        Comparison(prompt, before.strip(), after.strip())
        for prompt, before, after in zip(prompts, original, edited, strict=True)
    ]
