"""Rebuilds a saved model or adapter from its `reproduce.json`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from excise.anatomy.writers import Anatomy
from excise.app.model import experiment_of, load_model, prompts_of, save_options, source_of
from excise.app.run import Run, prepare
from excise.checkpoint.source import ModelSource
from excise.config import Inputs, Settings, Stored
from excise.config.prompt_sources import prompt_sources
from excise.devices.environment import hardware, versions
from excise.devices.memory import input_device
from excise.errors import ModelError, PromptError, ReproductionError
from excise.events import Emit, Note
from excise.experiment.bank import edit_of
from excise.models.load import LoadedModel
from excise.prompts.splits import Prompts
from excise.reproduce.record import NAME, Circumstances, Reproduction, read_reproduction
from excise.saving.adapter import save_model_adapter
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.search.space import Candidate, propose, propose_operator
from excise.store.directory import set_digest

_PARTS = ("train", "search", "held_out")
_LOCAL = {"device", "max_memory", "offload_folder", "candidates", "no_hardware", "json_lines"}
"""Settings of the present machine, which the record does not decide."""


def rebuild(
    recorded: Reproduction,
    destination: Path,
    settings: Settings,
    emit: Emit,
    *,
    repeat_search: bool = False,
) -> Reproduction:
    """Rebuild the model or adapter in the new folder `destination`. Returns the record of the result.

    The directions are measured again on the recorded prompts; the parameters are the recorded ones of the
    trial. settings: from `settings_of`. repeat_search: repeat the search too, in a run directory beside
    `destination`. Raises ReproductionError if model or prompts differ from the record; SaveError.
    """
    if repeat_search and recorded.circumstances.search != "tpe":
        raise ReproductionError(
            f"excise no longer has the {recorded.circumstances.search} search, which cannot be repeated; "
            "leave out --repeat-search to use the recorded parameters"
        )
    emit(Note(_named_by(settings)))
    prompts, source = _found(settings)
    _require_unmoved(recorded, source, prompts, emit, all_parts=repeat_search)
    if repeat_search:
        run, candidate = _searched(recorded, settings, destination, emit)
        loaded, experiment = run.loaded, run.experiment
    else:
        loaded = load_model(settings, source, emit)
        # Sketched second moments depend on the number of rows.
        rows = recorded.circumstances.rows
        experiment = experiment_of(settings, loaded, prompts, emit, rows=rows)
        _ = experiment.coverage
        candidate = _recorded_candidate(recorded, settings, experiment.anatomy)
    anatomy = experiment.anatomy
    edit = replace(
        edit_of(candidate, experiment.bank, anatomy),
        parameters=recorded.trial.parameters,
        facts=recorded.trial.facts,
    )
    record = _record_now(recorded, settings, loaded, candidate, anatomy)
    described = DescribedEdit(edit, record.figures, record)
    options = replace(save_options(settings), packed=recorded.packed)
    save = save_model if recorded.made == "model" else save_model_adapter
    save(loaded, described, destination, options, emit)
    return read_reproduction(destination)


def _found(settings: Settings) -> tuple[Prompts, ModelSource]:
    """The prompts and the model that the settings name. Raises ReproductionError."""
    try:
        prompts = prompts_of(settings)
    except PromptError as error:
        raise ReproductionError(
            f"{error}; if the prompts have moved, name their new place (--target-train and the like)"
        ) from error
    try:
        return prompts, source_of(settings)
    except ModelError as error:
        raise ReproductionError(
            f"{error}; if the model has moved, name its new place (--from MODEL)"
        ) from error


def settings_of(recorded: Reproduction, inputs: Inputs, *, repeat_search: bool = False) -> Settings:
    """The recorded settings; what the run measured, such as the batch size, counts as a setting.

    inputs: the flags replace recorded settings, such as the places of the prompts and the model. The
    environment and `excise.toml` give the settings that the record lacks.
    Raises SettingsError, also if the model needs its own code and the flags do not allow it.
    """
    settings: dict[str, Any] = recorded.settings.model_dump(mode="json", exclude=_LOCAL)
    measured = recorded.circumstances
    settings |= {
        "model": recorded.model.name,
        "revision": recorded.model.revision,
        "batch_size": measured.batch_size,
        "response_prefix": measured.response_prefix,
        "template_arguments": {
            **recorded.settings.template_arguments,
            **measured.template_arguments,
        },
        "allow_partial": True,
        "allow_absent": True,
    }
    if settings["quantization"] == "none" and not recorded.trial.facts.get("packing"):
        settings["dtypes"] = [measured.dtype]
    for kind in ("target", "control"):
        for part in _PARTS:
            _pin(settings, f"{kind}_{part}", recorded.prompts.part(kind, part).revision)
            if kind in inputs.flags:
                settings[f"{kind}_{part}"] = None
        _pin(settings, kind, recorded.prompts.part(kind, "train").revision)
    if "model" in inputs.flags:
        settings["revision"] = None
    if not repeat_search:
        # Only a search needs scorers, which may be code.
        for field in ("objectives", "scorers"):
            settings[field] = None
    return inputs.settings(Stored(NAME, settings))


def _named_by(settings: Settings) -> str:
    """The files that the record and the flags name, in one line."""
    named = [settings.model, *prompt_sources(settings).names()]
    if settings.chat_template is not None:
        named.append(str(settings.chat_template))
    return (
        f"reading files that {NAME} and the flags name; missing files come from the hub: "
        f"{', '.join(named)}"
    )


def _pin(settings: dict[str, Any], field: str, revision: str | None) -> None:
    """Name the recorded commit of a hub data set."""
    if revision is not None and isinstance(settings.get(field), dict):
        settings[field] = {**settings[field], "revision": revision}


def _require_unmoved(
    recorded: Reproduction, source: ModelSource, prompts: Prompts, emit: Emit, *, all_parts: bool
) -> None:
    """Raise ReproductionError with all differences of model and prompts from the record.

    all_parts: also compare prompts that only the search and the figures need; otherwise a note names them.
    """
    differing: list[str] = []
    unneeded: list[str] = []
    if source.digest != recorded.model.digest:
        differing.append(
            f"the model {source.name} (was {recorded.model.digest}, is {source.digest})"
        )
    for kind, parts in (("target", prompts.target), ("control", prompts.control)):
        for part in _PARTS:
            found = getattr(parts, part)
            if set_digest(found) != recorded.prompts.part(kind, part).digest:
                name = f"the {kind} {part.replace('_', '-')} prompts ({found.origin})"
                (differing if part == "train" or all_parts else unneeded).append(name)
    if unneeded:
        emit(
            Note(
                f"these prompts differ from the recorded prompts, but are not needed: {', '.join(unneeded)}"
            )
        )
    if differing:
        raise ReproductionError(
            f"the saved {recorded.made} was not made from these files: {'; '.join(differing)}; name the "
            "original files (--from MODEL, --target-train SET and the like)"
        )


def _recorded_candidate(recorded: Reproduction, settings: Settings, anatomy: Anatomy) -> Candidate:
    trial = recorded.trial
    if len(trial.strengths) != len(anatomy.writers):
        raise ReproductionError(
            f"the record has strengths of {len(trial.strengths)} matrices, the model has "
            f"{len(anatomy.writers)}: the record is of another model"
        )
    try:
        operator = propose_operator(FixedTrial(trial.parameters), settings.kinds, anatomy)
    except ValueError as error:
        raise ReproductionError(
            f"excise no longer knows the trial's parameters: {error}"
        ) from error
    return replace(operator, free=trial.strengths)


def _searched(
    recorded: Reproduction, settings: Settings, destination: Path, emit: Emit
) -> tuple[Run, Candidate]:
    folder = destination.with_name(f"{destination.name}-run")
    emit(Note(f"the search is stored in {folder}; the same command resumes it"))
    with prepare(settings.model_copy(update={"run_dir": folder}), emit) as run:
        run.search(recorded.trial.completed)
        return run, _found_again(recorded, run, emit)


def _found_again(recorded: Reproduction, run: Run, emit: Emit) -> Candidate:
    """The trial of the same number; a note reports other parameters than recorded."""
    number = recorded.trial.number
    trials = {trial.number: trial for trial in run.study.trials()}
    if number not in trials or trials[number].state != "complete":
        raise ReproductionError(
            f"the repeated search has no trial {number}; leave out --repeat-search to use the "
            "recorded parameters"
        )
    if dict(trials[number].parameters) != recorded.trial.parameters:
        emit(
            Note(f"the repeated search differs: trial {number} has other parameters than recorded")
        )
    return propose(run.study.finished(number), run.settings.kinds, run.experiment.anatomy)


def _record_now(
    recorded: Reproduction,
    settings: Settings,
    loaded: LoadedModel,
    candidate: Candidate,
    anatomy: Anatomy,
) -> Reproduction:
    """The record with the circumstances and strengths of the rebuilt edit."""
    now = recorded.circumstances.model_dump() | {
        "dtype": loaded.dtype,
        "in_blocks": loaded.prepacked,
        "versions": versions(),
    }
    now["hardware"] = None if settings.no_hardware else hardware(input_device(loaded.model))
    strengths = tuple(candidate.strengths(anatomy).tolist())
    return recorded.model_copy(
        update={
            "circumstances": Circumstances.model_validate(now),
            "written_with": versions(),
            "trial": recorded.trial.model_copy(update={"strengths": strengths}),
        }
    )
