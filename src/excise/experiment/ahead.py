"""Measures of a candidate what needs no answers of it: cheap passes, and scorers that run the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.experiment.baseline import Part
from excise.experiment.comparisons import Comparisons, checked, owners_of
from excise.experiment.plan import Plan
from excise.experiment.running_trial import RunningTrial
from excise.scorers.scorer import (
    PROMPT_KINDS,
    AlongAnswers,
    EditedModel,
    FirstToken,
    ModelInUse,
    Need,
    PromptKind,
)


class Ahead:
    """Measures candidates of a plan before they answer prompts, the cheapest figures first."""

    def __init__(self, plan: Plan, edits: VirtualEdits, part: Part) -> None:
        """Called without an edit in use."""
        self._plan, self._edits = plan, edits
        self._first = {
            kind: {need: owner for need, owner in owners.items() if need.prompts == kind}
            for kind in PROMPT_KINDS
            for owners in (owners_of(plan.scorers, FirstToken),)
        }
        along = owners_of(plan.scorers, AlongAnswers)
        self._along = Comparisons(
            plan.runner, self._switch, plan.prompts, plan.answers, along, several=True
        )
        self._compares_along = bool(along)
        self._original: dict[PromptKind, Tensor] = {"control": part.original}
        if self._first["target"]:
            self._original["target"] = plan.runner.log_probabilities(part.target)
        self._runs_model = any(EditedModel() in scorer.needs for scorer in plan.scorers)

    def measure(self, trial: RunningTrial, control: Assignment) -> None:
        """Measure a candidate until it is known to be dominated.

        control: assignment of control prompts, whose first layers may be cached. Raises TrialError.
        """
        plan, found = self._plan, dict[Need[Any], Any]()
        whole = Assignment(trial.candidate_slot, self._edits.assign)
        for kind, owners in self._first.items():
            if owners:
                reduces = checked(owners)
                figures = plan.runner.first_tokens(
                    plan.prompts[kind].tokens,
                    self._original[kind],
                    control if kind == "control" else whole,
                    list(reduces.values()),
                )
                by_reduce = dict(zip(reduces, figures, strict=True))
                found |= {need: by_reduce[need.reduce] for need in owners}
        trial.measured(found)
        if self._compares_along and not trial.is_hopeless:
            trial.measured(self._along.measure(whole))
        if self._runs_model and not trial.is_hopeless:
            whole.before_pass(1)
            runner = plan.runner
            trial.measured({EditedModel(): ModelInUse(runner.model, runner.chat, runner.rows)})

    def _switch(self, on: bool) -> None:
        self._edits.pause(paused=not on)
