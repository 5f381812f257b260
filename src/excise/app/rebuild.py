"""A saved model made again from its `reproduce.json`: prompts and model found, directions measured anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from excise.anatomy.writers import Anatomy
from excise.app.model import experiment_of, load_model, save_options
from excise.app.run import Run, prepare
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings, Stored, gather
from excise.config.prompt_sources import prompt_sources
from excise.devices.device import input_device
from excise.devices.environment import hardware, versions
from excise.errors import ModelError, PromptError, ReproductionError
from excise.events import Emit, Note
from excise.experiment.bank import edit_of
from excise.models.load import LoadedModel
from excise.prompts.load import load_parts
from excise.prompts.splits import Prompts
from excise.reproduce.record import NAME, Circumstances, Reproduction, read_reproduction
from excise.saving.adapter import save_model_adapter
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.search.space import Candidate, propose, propose_operator
from excise.store.directory import set_digest

_PARTS = ("train", "search", "held_out")
_OF_HERE = {"device", "max_memory", "offload_folder", "candidates", "no_hardware", "json_lines"}
"""Settings that say how a model is made again, not what: the record does not decide them."""


def rebuild(
    recorded: Reproduction,
    destination: Path,
    settings: Settings,
    emit: Emit,
    *,
    repeat_search: bool = False,
) -> Reproduction:
    """Make the model or adapter again in the new folder `destination`; returns the record of it.

    The directions are measured anew on the recorded prompts; the trial's parameters are taken as they are,
    because a search only chooses among what the directions allow. settings: those of `settings_of`.
    repeat_search: the search is repeated too, in a run directory beside `destination`.
    Raises ReproductionError if model or prompts are not those of then, naming which; or SaveError.
    """
    if repeat_search and recorded.circumstances.search != "tpe":
        raise ReproductionError(
            f"excise has no {recorded.circumstances.search} search any more, so that it cannot be repeated; "
            "leave out --repeat-search to take the recorded parameters"
        )
    emit(Note(_named_by(settings)))
    prompts, source = _found(settings)
    _require_unmoved(recorded, source, prompts, emit, all_parts=repeat_search)
    if repeat_search:
        run, candidate = _searched(recorded, settings, destination, emit)
        loaded, experiment = run.loaded, run.experiment
    else:
        loaded = load_model(settings, source, emit)
        # Sketched second moments are other ones with every other number of rows.
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
    known = _known(recorded, loaded, candidate, anatomy, no_hardware=settings.no_hardware)
    described = DescribedEdit(edit, known.figures, known)
    options = replace(save_options(settings), packed=recorded.packed)
    save = save_model if recorded.made == "model" else save_model_adapter
    save(loaded, described, destination, options, emit)
    return read_reproduction(destination)


def _found(settings: Settings) -> tuple[Prompts, ModelSource]:
    """The prompts and the model that the settings name. Raises ReproductionError."""
    try:
        prompts = load_parts(prompt_sources(settings))
    except PromptError as error:
        raise ReproductionError(
            f"{error}; if the prompts have moved, say where they lie now (--target-train and the like)"
        ) from error
    try:
        return prompts, resolve(settings.model, settings.revision, code=settings.trust_remote_code)
    except ModelError as error:
        raise ReproductionError(
            f"{error}; if the model has moved, say where it lies now (--from MODEL)"
        ) from error


def settings_of(
    recorded: Reproduction,
    given: Mapping[str, object],
    environment: Mapping[str, str],
    toml_path: Path | None,
) -> Settings:
    """The recorded settings, with what the run found out by itself as if it had been given.

    given: flags, which say where prompts and model lie now. environment, toml_path: as for `gather`; they
    count for what the record does not say, which is how the work is carried out here.
    Raises SettingsError, also if code of the model's is to be run and `given` does not allow it.
    """
    settings: dict[str, Any] = recorded.settings.model_dump(mode="json", exclude=_OF_HERE)
    then = recorded.circumstances
    settings |= {
        "model": recorded.model.name,
        "revision": recorded.model.revision,
        "batch_size": then.batch_size,
        "response_prefix": then.response_prefix,
        "template_arguments": {**recorded.settings.template_arguments, **then.template_arguments},
        "allow_partial": True,
        "allow_absent": True,
    }
    if settings["quantization"] == "none" and not recorded.trial.facts.get("packing"):
        settings["dtypes"] = [then.dtype]
    for kind in ("target", "control"):
        for part in _PARTS:
            _pin(settings, f"{kind}_{part}", recorded.prompts.part(kind, part).revision)
            if kind in given:
                settings[f"{kind}_{part}"] = None
        _pin(settings, kind, recorded.prompts.part(kind, "train").revision)
    if "model" in given:
        settings["revision"] = None
    return gather(given, environment, toml_path, Stored(NAME, settings))


def _named_by(settings: Settings) -> str:
    """What the record makes excise read, in one line."""
    named = [settings.model, *prompt_sources(settings).names()]
    if settings.chat_template is not None:
        named.append(str(settings.chat_template))
    return (
        f"reading what {NAME} and the flags name, from the hub what is not here: {', '.join(named)}"
    )


def _pin(settings: dict[str, Any], field: str, revision: str | None) -> None:
    """Name the commit of a hub data set that was read then."""
    if revision is not None and isinstance(settings.get(field), dict):
        settings[field] = {**settings[field], "revision": revision}


def _require_unmoved(
    recorded: Reproduction,
    source: ModelSource,
    prompts: Prompts,
    emit: Emit,
    *,
    all_parts: bool,
) -> None:
    """Raise ReproductionError, naming all that differs, unless model and prompts are those of then.

    Prompts that only the search and the figures look at do not matter unless the search is repeated.
    """
    moved: list[str] = []
    idle: list[str] = []
    if source.digest != recorded.model.digest:
        moved.append(f"the model {source.name} (was {recorded.model.digest}, is {source.digest})")
    for kind, parts in (("target", prompts.target), ("control", prompts.control)):
        for part in _PARTS:
            found, then = getattr(parts, part), recorded.prompts.part(kind, part)
            if set_digest(found) != then.digest:
                name = f"the {kind} {part.replace('_', '-')} prompts ({found.origin})"
                (moved if part == "train" or all_parts else idle).append(name)
    if idle:
        emit(Note(f"not those of then, but not needed: {', '.join(idle)}"))
    if moved:
        raise ReproductionError(
            f"not what the saved {recorded.made} was made from: {'; '.join(moved)}; say where those of "
            "then lie (--from MODEL, --target-train SET and the like)"
        )


def _recorded_candidate(recorded: Reproduction, settings: Settings, anatomy: Anatomy) -> Candidate:
    trial = recorded.trial
    if len(trial.strengths) != len(anatomy.writers):
        raise ReproductionError(
            f"the record has strengths of {len(trial.strengths)} matrices, the model has "
            f"{len(anatomy.writers)}: the two do not belong together"
        )
    try:
        operator = propose_operator(FixedTrial(trial.parameters), settings.kinds, anatomy)
    except ValueError as error:
        raise ReproductionError(f"the trial's parameters are no longer known: {error}") from error
    return replace(operator, free=trial.strengths)


def _searched(
    recorded: Reproduction, settings: Settings, destination: Path, emit: Emit
) -> tuple[Run, Candidate]:
    folder = destination.with_name(f"{destination.name}-run")
    emit(Note(f"the search is kept in {folder}; the same command goes on with it"))
    with prepare(settings.model_copy(update={"run_dir": folder}), emit) as run:
        run.search(recorded.trial.completed)
        return run, _found_again(recorded, run, emit)


def _found_again(recorded: Reproduction, run: Run, emit: Emit) -> Candidate:
    """The trial of the same number; says so if the search led elsewhere."""
    number = recorded.trial.number
    trials = {trial.number: trial for trial in run.study.trials()}
    if number not in trials or trials[number].state != "complete":
        raise ReproductionError(
            f"the search was repeated and has no trial {number}; leave out --repeat-search to take the "
            "recorded parameters"
        )
    if dict(trials[number].parameters) != recorded.trial.parameters:
        emit(Note(f"the search took another way: trial {number} has other parameters"))
    return propose(run.study.finished(number), run.settings.kinds, run.experiment.anatomy)


def _known(
    recorded: Reproduction,
    loaded: LoadedModel,
    candidate: Candidate,
    anatomy: Anatomy,
    *,
    no_hardware: bool,
) -> Reproduction:
    """The record of what is made now: as it was then, in the circumstances of now."""
    now = recorded.circumstances.model_dump() | {
        "dtype": loaded.dtype,
        "in_blocks": loaded.prepacked,
        "versions": versions(),
    }
    now["hardware"] = None if no_hardware else hardware(input_device(loaded.model))
    strengths = tuple(candidate.strengths(anatomy).tolist())
    return recorded.model_copy(
        update={
            "circumstances": Circumstances.model_validate(now),
            "written_with": versions(),
            "trial": recorded.trial.model_copy(update={"strengths": strengths}),
        }
    )
