"""Compares two models: refusals of both, and KL(original ‖ edited)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from accelerate.utils import release_memory

from excise.app.model import experiment_of, in_data_type, load_model, prompts_of, source_of
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings
from excise.errors import ModelError
from excise.events import Emit, StageStarted
from excise.experiment.baseline import Part, measure_original
from excise.experiment.events import BaselineMeasured
from excise.experiment.groups import groups_of
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.prompts.sets import PromptSet
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


def evaluate(settings: Settings, against: str, emit: Emit) -> Evaluation:
    """Compare `settings.model` with the original `against`. One model is in memory at a time.

    Raises ModelError if the two do not share a vocabulary.
    """
    prompts, edited = prompts_of(settings), source_of(settings)
    source = resolve(against, code=settings.trust_remote_code)
    original = _measure_original(settings, source, prompts, emit)
    # The memory of the first model is needed for the second.
    release_memory()
    # The same data type for both, because a difference of type would count too.
    typed = in_data_type(settings, original.dtype, edited) if original.dtype else settings
    runner = _runner_like(original, settings, load_model(typed, edited, emit), emit)
    emit(StageStarted("held_out", f"Measuring {settings.model}"))
    parts: dict[str, Figures] = {}
    sets = _sets(prompts)
    for name, (part, refused) in original.parts.items():
        width = runner.log_probabilities(part.control[:1]).shape[1]
        if width != part.original.shape[1]:
            raise ModelError(
                f"{settings.model} and {against} have different vocabularies "
                f"({width} and {part.original.shape[1]} tokens); they cannot be compared"
            )
        parts[name] = _compared(runner, part, refused, sets[name])
    return Evaluation(settings.model, against, parts)


def _sets(prompts: Prompts) -> dict[str, tuple[PromptSet, PromptSet]]:
    """Target and control prompts of each part."""
    return {
        "search": (prompts.target.search, prompts.control.search),
        "held_out": (prompts.target.held_out, prompts.control.held_out),
    }


def _compared(
    runner: Runner, part: Part, control_refused: Refusals, sets: tuple[PromptSet, PromptSet]
) -> Figures:
    """Both models on a part. control_refused: the original model's verdicts on control prompts."""
    to_target, to_control = runner.refusals_of_sets([part.target, part.control])
    divergences = part.divergences(runner)
    target, control = map(groups_of, sets)
    return Figures(
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


@dataclass(frozen=True)
class _Original:
    """The measurements of the original model, which is no longer in memory.

    parts: by name, with the verdicts on control prompts. dtype: the data type that it ran in, None for
    packed weights. The other fields repeat the measurement with another model.
    """

    parts: Mapping[str, tuple[Part, Refusals]]
    dtype: str | None
    slots: int
    response_prefix: str
    template_arguments: Mapping[str, Any]


def _measure_original(
    settings: Settings, source: ModelSource, prompts: Prompts, emit: Emit
) -> _Original:
    """A function of its own, so that no variable refers to the model afterwards."""
    loaded = load_model(settings, source, emit)
    runner = experiment_of(settings, loaded, prompts, emit).runner
    emit(StageStarted("baseline", f"Measuring {source.name}"))
    parts: dict[str, tuple[Part, Refusals]] = {}
    for name, (target, control) in _sets(prompts).items():
        part = measure_original(runner, target, control)
        # On the host, because the other model needs the device's memory.
        kept = replace(part, original=part.original.cpu())
        parts[name] = kept, runner.refusals(part.control)
        emit(BaselineMeasured(name, part.refusals, len(part.target)))
    return _Original(
        parts,
        loaded.dtype if loaded.packing is None else None,
        runner.slots,
        runner.chat.response_prefix,
        runner.chat.call.arguments,
    )


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
