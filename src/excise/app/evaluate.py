"""Any two models compared: refusals of both, and KL(original ‖ edited)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from accelerate.utils import release_memory

from excise.app.model import experiment_of, in_data_type, load_model
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import ModelError
from excise.events import Emit, StageStarted
from excise.experiment.baseline import Part, measure_original
from excise.experiment.events import BaselineMeasured
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.prompts.read import load_parts
from excise.prompts.splits import Prompts


@dataclass(frozen=True)
class Figures:
    """Both models on one part of the prompts. kl: nats, first answer token, mean over control prompts."""

    refusals_original: int
    refusals_edited: int
    prompts: int
    control_refusals_original: int
    control_refusals_edited: int
    control_prompts: int
    kl: float


@dataclass(frozen=True)
class Evaluation:
    """Two models compared. parts: figures of "search" and of "held_out" prompts."""

    model: str
    against: str
    parts: Mapping[str, Figures]


def evaluate(settings: Settings, against: str, emit: Emit) -> Evaluation:
    """Compare `settings.model` with the original `against`. One model is in memory at a time.

    Raises ModelError if the two do not share a vocabulary.
    """
    prompts = load_parts(prompt_sources(settings))
    original = resolve(against)
    edited_source = resolve(settings.model, settings.revision)
    asked = _ask_original(settings, original, prompts, emit)
    # The first model has to go before the second one comes.
    release_memory()
    # Another data type would count as a difference between the two.
    typed = in_data_type(settings, asked.dtype, edited_source) if asked.dtype else settings
    runner = _asked_alike(settings, load_model(typed, edited_source, emit), asked, emit)
    emit(StageStarted("held_out", f"Asking {settings.model}"))
    parts: dict[str, Figures] = {}
    for name, (part, control_refusals) in asked.parts.items():
        width = runner.log_probabilities(part.control[:1]).shape[1]
        if width != part.original.shape[1]:
            raise ModelError(
                f"{settings.model} and {against} have different vocabularies "
                f"({width} and {part.original.shape[1]} tokens); they cannot be compared"
            )
        to_target, to_control = runner.refusals_of_sets([part.target, part.control])
        parts[name] = Figures(
            refusals_original=part.refusals,
            refusals_edited=to_target.count,
            prompts=len(part.target),
            control_refusals_original=control_refusals,
            control_refusals_edited=to_control.count,
            control_prompts=len(part.control),
            kl=mean(part.divergences(runner)),
        )
    return Evaluation(settings.model, against, parts)


@dataclass(frozen=True)
class _Asked:
    """What is left of the original model when it is gone.

    parts: by name, with its refusals of control prompts. dtype: the data type that it ran in, None if its
    weights are packed. The others are how it was asked.
    """

    parts: Mapping[str, tuple[Part, int]]
    dtype: str | None
    slots: int
    response_prefix: str
    template_arguments: Mapping[str, Any]


def _ask_original(settings: Settings, source: ModelSource, prompts: Prompts, emit: Emit) -> _Asked:
    """In a function of its own, so that nothing holds the model when it returns."""
    loaded = load_model(settings, source, emit)
    runner = experiment_of(settings, loaded, prompts, emit).runner
    emit(StageStarted("baseline", f"Asking {source.name}"))
    parts: dict[str, tuple[Part, int]] = {}
    for name, target, control in (
        ("search", prompts.target.search, prompts.control.search),
        ("held_out", prompts.target.held_out, prompts.control.held_out),
    ):
        part = measure_original(runner, target, control)
        # On the host: the device is wanted for the other model.
        kept = replace(part, original=part.original.cpu())
        parts[name] = kept, runner.refusals(part.control).count
        emit(BaselineMeasured(name, part.refusals, len(part.target)))
    return _Asked(
        parts,
        loaded.dtype if loaded.packing is None else None,
        runner.slots,
        runner.chat.response_prefix,
        runner.chat.call.arguments,
    )


def _asked_alike(settings: Settings, loaded: LoadedModel, asked: _Asked, emit: Emit) -> Runner:
    """The edited model, ready to be asked the same: the original's answer prefix counts for it too."""
    call = loaded.call.with_arguments(asked.template_arguments)
    return Runner(
        loaded.model,
        Chat(loaded.tokenizer, asked.response_prefix, call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=asked.slots,
        emit=emit,
    )
