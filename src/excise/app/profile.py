"""A run on the user's own model and machine, profiled by stage: `excise bench`.

The stages are those of a run up to and with its first trial, which scores the closed form. Nothing is
written, and a model that does not show the behaviour is profiled like any other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from excise.anatomy.writers import Anatomy
from excise.app.model import open_model
from excise.app.settle import settle
from excise.checkpoint.source import resolve
from excise.config import Settings
from excise.devices.device import input_device
from excise.devices.memory import device_memory, devices_of, peak_memory
from excise.edits.virtual import VirtualEdits
from excise.engine.answers import end_tokens
from excise.engine.costs import Costs, costs_of
from excise.engine.meter import Meter, ended_early
from excise.engine.prefill import Tokens
from excise.engine.rate import matrix_rate, synchronise
from excise.engine.stopwatch import Stopwatch, after_each
from excise.engine.work import Work
from excise.errors import TrialError
from excise.events import Emit, StageStarted
from excise.experiment.bank import edit_of
from excise.experiment.build_bank import build_bank
from excise.experiment.events import BaselineMeasured
from excise.experiment.runner import Part, measure_original
from excise.experiment.trial import Contest, score
from excise.models.load import LoadedModel
from excise.prompts.splits import load_parts
from excise.search.events import RateMeasured
from excise.search.start import closed_form_of

RATE_SECONDS = 1.0
"""How long products of matrices are timed, for each data type."""
TRIAL_STAGES = ("edit", "kl", "refusals")


@dataclass(frozen=True)
class Stage:
    """One stage.

    seconds: wall time, of which in_model in forward passes without the edit's hooks, operator in those
    hooks, waiting in neither: text, verdicts, sums, and whatever the device waits for. work: what the
    model was run on; of the stage "load" it is not known. needed: floating-point operations that the
    question needs, every token run once and unpadded; None where the stage's own work is what is needed.
    share: of the machine's matrix rate, needed operations over wall time.
    """

    name: str
    seconds: float
    in_model: float
    operator: float
    waiting: float
    work: Work
    needed: int | None
    share: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens through the model for each second of the stage."""
        return self.work.tokens / self.seconds


@dataclass(frozen=True)
class Profile:
    """A profiled run.

    rates: measured floating-point operations a second in matrix products, by data type. refusals, kl: of the
    closed form on search prompts. loaded_bytes, peak_bytes: the model's size, and the most memory held,
    by device.
    """

    model: str
    dtype: str
    device: str
    rates: Mapping[str, float]
    slots: int
    target_prompts: int
    control_prompts: int
    max_new_tokens: int
    refusals: int
    kl: float
    loaded_bytes: int
    peak_bytes: Mapping[str, int]
    stages: tuple[Stage, ...]

    @property
    def trial_seconds(self) -> float:
        """What one trial takes."""
        return sum(stage.seconds for stage in self.stages if stage.name in TRIAL_STAGES)


class Profiler:
    """A scope that measures the stages in it. rate: the machine's, in the model's data type."""

    def __init__(self, loaded: LoadedModel, anatomy: Anatomy, costs: Costs, rate: float) -> None:
        self._model, self._rate = loaded.model, rate
        self._device = input_device(loaded.model)
        self._meter = Meter(loaded.model, costs, anatomy.first_writers())
        self._passes, self.operator = Stopwatch(self._device), Stopwatch(self._device)
        self.stages: list[Stage] = []

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The scope."""
        handle = self._model.register_forward_pre_hook(self._passes.start)
        try:
            with self._meter, after_each((self._model,), self._passes.stop):
                yield
        finally:
            handle.remove()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The scope of one stage."""
        synchronise(self._device)
        started = time.perf_counter()
        with self._meter.stage(name):
            yield
            synchronise(self._device)
        seconds = time.perf_counter() - started
        in_passes, operator = self._passes.take(), self.operator.take()
        work = self._meter.take()
        share = work.operations / (seconds * self._rate)
        self.stages.append(
            Stage(
                name,
                seconds,
                in_passes - operator,
                operator,
                max(0.0, seconds - in_passes),
                work,
                None,
                share,
            )
        )

    def needs(self, name: str, operations: int, early_rows: int = 0) -> None:
        """Say what the stage `name` needed, and how many of its answers were decided early."""
        for index, stage in enumerate(self.stages):
            if stage.name == name:
                self.stages[index] = replace(
                    stage,
                    needed=operations,
                    share=operations / (stage.seconds * self._rate),
                    work=replace(stage.work, early_rows=early_rows),
                )


def profile(settings: Settings, emit: Emit) -> Profile:
    """Profile a run with these settings, up to and with a trial of the closed form.

    Raises ExciseError for what the user can mend.
    """
    prompts = load_parts(settings)
    source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    started = time.perf_counter()
    loaded, anatomy, _, runner = open_model(settings, source, emit)
    load_seconds = time.perf_counter() - started

    rates = _rates(loaded, emit)
    costs = costs_of(loaded.model, anatomy.layers)
    profiler = Profiler(loaded, anatomy, costs, rates[loaded.dtype])
    with ExitStack() as stack:
        stack.enter_context(profiler.measuring())
        with profiler.stage("batch size"):
            settle(runner, settings, loaded, prompts, emit)
        emit(StageStarted("baseline", "Asking the original model"))
        with profiler.stage("baseline"):
            part = measure_original(runner, prompts.target.search, prompts.control.search)
        emit(BaselineMeasured("search", part.refusals, len(part.target)))
        emit(StageStarted("directions", "Finding the direction of each layer"))
        with profiler.stage("directions"):
            bank = build_bank(settings, loaded, anatomy, runner, prompts)
        emit(StageStarted("trial", "Scoring the closed form"))
        names = anatomy.names * settings.directions
        with profiler.stage("edit"):
            edit = edit_of(closed_form_of(settings.kinds[0], anatomy), bank, anatomy)
        # Between these two hooks on a writer lies the edit's own, and nothing else.
        edited = [loaded.model.get_submodule(name) for name in edit.changed]
        stack.enter_context(after_each(edited, profiler.operator.start))
        edits = stack.enter_context(VirtualEdits(loaded.model, names))
        stack.enter_context(after_each(edited, profiler.operator.stop))
        (scored,) = score(runner, edits, [edit], part, Contest(), profiler.stage)
    if isinstance(scored, TrialError):
        raise scored
    answered = scored.answered
    assert answered is not None, "with nothing to beat, every verdict is waited for"

    _state_needs(profiler, costs, part, answered.tokens, loaded, settings.max_new_tokens)
    devices = devices_of(loaded.model)
    load = Stage("load", load_seconds, 0.0, 0.0, load_seconds, Work(), None, 0.0)
    return Profile(
        model=settings.model,
        dtype=loaded.precision,
        device=", ".join(device_memory(device).name for device in devices),
        rates=rates,
        slots=runner.slots,
        target_prompts=len(part.target),
        control_prompts=len(part.control),
        max_new_tokens=settings.max_new_tokens,
        refusals=answered.count,
        kl=scored.kl,
        loaded_bytes=loaded.bytes,
        peak_bytes=peak_memory(devices),
        stages=(load, *profiler.stages),
    )


def _rates(loaded: LoadedModel, emit: Emit) -> dict[str, float]:
    """The machine's matrix rate in the model's data type and in two that it may be compared with."""
    device = input_device(loaded.model)
    rates: dict[str, float] = {}
    for dtype in dict.fromkeys((loaded.dtype, "float32", "bfloat16")):
        rates[dtype] = matrix_rate(getattr(torch, dtype), device, RATE_SECONDS)
        emit(RateMeasured(dtype, rates[dtype]))
    return rates


def _state_needs(
    profiler: Profiler,
    costs: Costs,
    part: Part,
    edited: Sequence[Tokens],
    loaded: LoadedModel,
    max_new_tokens: int,
) -> None:
    """Emit the profiler what its stages needed. edited: the edited model's answers to target prompts."""

    def decided(answers: Sequence[Tokens]) -> int:
        return ended_early(answers, end_tokens(loaded.model), max_new_tokens)

    first = costs.answering(part.control, [[0]] * len(part.control))
    original = part.answered.tokens
    profiler.needs("baseline", first + costs.answering(part.target, original), decided(original))
    profiler.needs("kl", first)
    profiler.needs("refusals", costs.answering(part.target, edited), decided(edited))
