"""Measures the chosen edit on held-out prompts, and compares answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

from excise.app.events import Chosen
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.events import Note
from excise.experiment.experiment import Experiment
from excise.experiment.figures import measure_edit
from excise.experiment.groups import details_of, figures_by_group
from excise.experiment.runner import Runner
from excise.scorers.builtin import REPORTED
from excise.scorers.scorer import Score
from excise.scorers.statistics import wilson
from excise.search.front import Point, pareto_front
from excise.search.objective import DEFAULT
from excise.search.select import reason
from excise.store.further import Further
from excise.store.outcome import Answered, Outcome
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
    edit, scorers = store.directory.edit(point.number), experiment.reported
    (answer_kl,) = (each for each in scorers if each.name == "answer_kl")
    scores = measure_edit(experiment.runner, held_out, edit, scorers, seed, experiment.leave_out)
    outcome = Outcome(
        trial=point.number,
        search=point,
        search_prompts=len(experiment.search_part.target),
        prompts=len(held_out.prompts["target"]),
        control_prompts=len(held_out.prompts["control"]),
        original=_answered(held_out.scores),
        edited=_answered(scores),
        kl=scores["kl"].estimate,
        answer_kl=scores["answer_kl"].estimate,
        answer_tokens=held_out.answer_tokens(answer_kl.needs),
        further=tuple(
            Further.of(name, held_out.scores.get(name), score)
            for name, score in scores.items()
            if name not in REPORTED
        ),
        groups=figures_by_group(
            experiment.prompts, "held_out", details_of(held_out.scores), scores, seed
        ),
        seconds=held_out.seconds + time.perf_counter() - started,
        judge=experiment.judge.name,
    )
    store.choose(experiment.describe(store), outcome)
    front = pareto_front(store.study.points())
    experiment.emit(Chosen(outcome, f"{reason(front, point)}; {_agreement(outcome)}"))
    if not experiment.coverage.complete:
        experiment.emit(Note(f"the edit is partial: {experiment.coverage.lacking()}"))
    return outcome


def _answered(scores: Mapping[str, Score]) -> Answered:
    return Answered(**{each.name: round(scores[each.name].value) for each in fields(Answered)})


def _agreement(outcome: Outcome) -> str:
    """Whether the refusals on held-out prompts agree with those of the search, as a clause.

    They agree if their 95 % intervals overlap.
    """
    point = outcome.search
    if point.objectives != DEFAULT:
        return f"in the search {point.told()}"
    search = wilson(round(point["refusals"]), outcome.search_prompts)
    held_out = wilson(outcome.edited.refusals, outcome.prompts)
    agrees = search[0] <= held_out[1] and held_out[0] <= search[1]
    return (
        f"held-out prompts {'agree' if agrees else 'do not agree'} with the search: "
        f"{outcome.edited.refusals}/{outcome.prompts} refused at KL {outcome.kl.mean:z.4f} "
        f"(search: {point['refusals']}/{outcome.search_prompts} at {point['kl']:z.4f})"
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
