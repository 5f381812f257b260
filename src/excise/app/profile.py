"""A run on the user's own model and machine, measured by stage: `excise bench`.

The stages are those of a run up to and with its first trial, which scores the closed form. Nothing is
written, and a model that does not show the behaviour is measured like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.app.model import open_model
from excise.app.settle import settle
from excise.checkpoint.source import resolve
from excise.config import Settings
from excise.config.prompt_sources import prompt_sources
from excise.devices.memory import device_memory, devices_of, peak_memory
from excise.edits.virtual import VirtualEdits
from excise.engine.tokens import TokenCounter
from excise.errors import TrialError
from excise.events import Emit, StageStarted
from excise.experiment.bank import edit_of
from excise.experiment.build_bank import build_bank
from excise.experiment.events import BaselineMeasured
from excise.experiment.runner import measure_original
from excise.experiment.trial import Bound, Scoring
from excise.models.rate import synchronise
from excise.prompts.splits import load_parts
from excise.search.start import closed_form_of

TRIAL_STAGES = ("edit", "kl", "refusals")


@dataclass(frozen=True)
class Stage:
    """One stage.

    seconds: wall time. tokens: those that went through the model, without padding; of the stage "load" they
    are not counted. peak_bytes: most memory that the process has held until the end of the stage, by device.
    """

    name: str
    seconds: float
    tokens: int
    peak_bytes: Mapping[str, int]

    @property
    def tokens_per_second(self) -> float:
        """Tokens through the model for each second of the stage."""
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
        """What one trial takes."""
        return sum(stage.seconds for stage in self.stages if stage.name in TRIAL_STAGES)


def profile(settings: Settings, emit: Emit) -> Profile:
    """Measure a run with these settings, up to and with a trial of the closed form.

    Raises ExciseError for what the user can mend.
    """
    prompts = load_parts(prompt_sources(settings))
    source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    started = time.perf_counter()
    loaded, anatomy, _, runner = open_model(settings, source, emit)
    model = loaded.model
    devices = devices_of(model)
    stages = [Stage("load", time.perf_counter() - started, 0, peak_memory(devices))]
    with TokenCounter(model) as counter:
        stage = _measured(model, counter, stages.append)
        with stage("batch size"):
            settle(runner, settings, loaded, prompts, emit)
        emit(StageStarted("baseline", "Asking the original model"))
        with stage("baseline"):
            part = measure_original(runner, prompts.target.search, prompts.control.search)
        emit(BaselineMeasured("search", part.refusals, len(part.target)))
        emit(StageStarted("directions", "Finding the direction of each layer"))
        with stage("directions"):
            bank = build_bank(settings, loaded, anatomy, runner, prompts)
        emit(StageStarted("trial", "Scoring the closed form"))
        with stage("edit"):
            edit = edit_of(closed_form_of(settings.kinds[0], anatomy), bank, anatomy)
        with VirtualEdits(model, anatomy.names * settings.directions) as edits:
            scoring = Scoring(runner, edits, part, candidate_slots=1)
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
    """Opens the scope of a stage by its name; what was measured goes to `done` at its end."""
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
