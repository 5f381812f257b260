"""Measures an edit or an edited model on prompts: refusals before and after, and KL(original ‖ edited)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, get_args

from excise.app.before_after import Subject, measured
from excise.app.model import experiment_of, prompts_of
from excise.config import Settings
from excise.edits.edit import Edit
from excise.errors import ModelError
from excise.events import Emit, StageStarted
from excise.experiment.baseline import Part, measure_original
from excise.experiment.events import BaselineMeasured
from excise.experiment.evidence import prompts_of_part
from excise.experiment.groups import groups_of
from excise.experiment.runner import Runner
from excise.experiment.scores import PromptPart
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.prompts.splits import Prompts
from excise.scorers.groups import UNGROUPED, FiguresByGroup
from excise.scorers.refusals import Refusals


@dataclass(frozen=True)
class Figures:
    """Both models on a part of the prompts. kl: mean over control prompts, first answer token, nats.

    groups: the figures of each group of prompts, if prompts have groups.
    """

    refusals_original: int
    refusals_edited: int
    prompts: int
    control_refusals_original: int
    control_refusals_edited: int
    control_prompts: int
    kl: float
    groups: FiguresByGroup = UNGROUPED


@dataclass(frozen=True)
class Evaluation:
    """The comparison of two models. parts: figures of "search" and "held_out" prompts."""

    model: str
    against: str
    parts: Mapping[str, Figures]


@dataclass(frozen=True)
class _Original:
    """The measurements of the original model, which need not be in memory any more.

    parts: by name, with the verdicts on control prompts. The other fields repeat the measurement with another
    model.
    """

    parts: Mapping[PromptPart, tuple[Part, Refusals]]
    slots: int
    response_prefix: str
    template_arguments: Mapping[str, Any]


def evaluate(subject: Subject, emit: Emit) -> Evaluation:
    """Measure the original and its edited version on the prompts that the settings name.

    Raises ModelError if two models do not share a vocabulary.
    """
    settings = subject.settings
    prompts = prompts_of(settings)

    def before(loaded: LoadedModel) -> _Original:
        return _measure_original(settings, loaded, subject.against, prompts, emit)

    def after(loaded: LoadedModel, edit: Edit | None, original: _Original) -> Mapping[str, Figures]:
        runner = _runner_like(original, settings, loaded, emit)
        emit(StageStarted("held_out", f"Measuring {subject.name}"))
        with edit.on(loaded.model) if edit is not None else nullcontext():
            return _figures(subject, original, runner, prompts)

    return Evaluation(subject.name, subject.against, measured(subject, emit, before, after))


def _measure_original(
    settings: Settings, loaded: LoadedModel, name: str, prompts: Prompts, emit: Emit
) -> _Original:
    runner = experiment_of(settings, loaded, prompts, emit).runner
    emit(StageStarted("baseline", f"Measuring {name}"))
    parts: dict[PromptPart, tuple[Part, Refusals]] = {}
    for part_name in get_args(PromptPart):
        part = measure_original(runner, prompts_of_part(prompts, part_name, runner.chat))
        # On the host, because the other model needs the device's memory.
        kept = replace(part, original=part.original.cpu())
        parts[part_name] = kept, runner.refusals(part.control)
        emit(BaselineMeasured(part_name, part.refusals, len(part.target)))
    arguments = runner.chat.call.arguments
    return _Original(parts, runner.slots, runner.chat.response_prefix, arguments)


def _runner_like(
    original: _Original, settings: Settings, loaded: LoadedModel, emit: Emit
) -> Runner:
    """A runner of the edited model with the response prefix and the batch size of the original."""
    call = loaded.call.with_arguments(original.template_arguments)
    return Runner(
        loaded.model,
        Chat(loaded.tokenizer, original.response_prefix, call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=original.slots,
        emit=emit,
    )


def _figures(
    subject: Subject, original: _Original, runner: Runner, prompts: Prompts
) -> dict[str, Figures]:
    parts: dict[str, Figures] = {}
    for name, (part, control_refused) in original.parts.items():
        width = runner.log_probabilities(part.control[:1]).shape[1]
        if width != part.original.shape[1]:
            raise ModelError(
                f"{subject.name} and {subject.against} have different vocabularies "
                f"({width} and {part.original.shape[1]} tokens); they cannot be compared"
            )
        to_target, to_control = runner.refusals_of_sets([part.target, part.control])
        divergences = part.divergences(runner)
        target, control = groups_of(prompts, name)
        parts[name] = Figures(
            refusals_original=part.refusals,
            refusals_edited=to_target.count,
            prompts=len(part.target),
            control_refusals_original=control_refused.count,
            control_refusals_edited=to_control.count,
            control_prompts=len(part.control),
            kl=mean(divergences),
            groups=FiguresByGroup(
                target.figures(original=part.answered.refused, edited=to_target.refused),
                control.figures(
                    original=control_refused.refused, edited=to_control.refused, kl=divergences
                ),
            ),
        )
    return parts
