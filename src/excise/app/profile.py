"""Measures the stages of a run on the user's model and machine: `excise bench`.

The stages are those of a run up to its first trial, which scores the closed form. Nothing is written. A model
that lacks the behaviour is measured too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.app.model import experiment_of, load_model, prompts_of, source_of
from excise.config import Settings
from excise.devices.memory import device_memory, devices_of, peak_memory
from excise.engine.tokens import TokenCounter
from excise.errors import TrialError
from excise.events import Emit, StageStarted
from excise.experiment.bank import edit_of
from excise.models.rate import synchronise
from excise.search.scoring import Bound
from excise.search.start import closed_form_of

TRIAL_STAGES = ("edit", "kl", "refusals")


@dataclass(frozen=True)
class Stage:
    """One stage.

    seconds: wall time. tokens: processed by the model, without padding; 0 for the stage "load". peak_bytes:
    the highest memory use of the process up to the end of the stage, by device.
    """

    name: str
    seconds: float
    tokens: int
    peak_bytes: Mapping[str, int]

    @property
    def tokens_per_second(self) -> float:
        """Tokens that the model processed in a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Profile:
    """A measured run. refusals, kl: of the closed form on search prompts. loaded_bytes: the model's size."""

    model: str
    dtype: str
    device: str
    slots: int
    target_prompts: int
    control_prompts: int
    max_new_tokens: int
    refusals: int
    kl: float
    loaded_bytes: int
    stages: tuple[Stage, ...]

    @property
    def trial_seconds(self) -> float:
        """Seconds of one trial."""
        return sum(stage.seconds for stage in self.stages if stage.name in TRIAL_STAGES)


def profile(settings: Settings, emit: Emit) -> Profile:
    """Measure a run with these settings, up to a trial of the closed form. Raises ExciseError."""
    prompts, source = prompts_of(settings), source_of(settings)
    started = time.perf_counter()
    loaded = load_model(settings, source, emit)
    experiment = experiment_of(settings, loaded, prompts, emit)
    _ = experiment.coverage
    devices = devices_of(loaded.model)
    stages = [Stage("load", time.perf_counter() - started, 0, peak_memory(devices))]
    with TokenCounter(loaded.model) as counter:
        stage = _measured(loaded.model, counter, stages.append)
        with stage("batch size"):
            runner = experiment.runner
        with stage("baseline"):
            part = experiment.search_part
        with stage("directions"):
            bank = experiment.bank
        emit(StageStarted("trial", "Scoring the closed form"))
        with stage("edit"):
            form = closed_form_of(settings.kinds[0], experiment.anatomy)
            edit = edit_of(form, bank, experiment.anatomy)
        with experiment.scoring(1) as scoring:
            with stage("kl"):
                scoring.begin(edit, Bound())
            with stage("refusals"):
                while not scoring.finished:
                    scoring.advance(more=False)
            scored, _ = scoring.take()
    if isinstance(scored, TrialError):
        raise scored
    return Profile(
        model=settings.model,
        dtype=loaded.precision,
        device=", ".join(device_memory(device).name for device in devices),
        slots=runner.slots,
        target_prompts=len(part.target),
        control_prompts=len(part.control),
        max_new_tokens=settings.max_new_tokens,
        refusals=scored.refusals,
        kl=scored.kl,
        loaded_bytes=loaded.bytes,
        stages=tuple(stages),
    )


def _measured(
    model: PreTrainedModel, counter: TokenCounter, done: Callable[[Stage], None]
) -> Callable[[str], AbstractContextManager[None]]:
    """A function that returns the context of a named stage, which gives its measurement to `done`."""
    devices = devices_of(model)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        for device in devices:
            synchronise(device)
        seconds = time.perf_counter() - started
        done(Stage(name, seconds, counter.take(), peak_memory(devices)))

    return stage
