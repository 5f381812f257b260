"""Makes `reproduce.json` of a saved model from the run directory, the plan and the written files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import as_tensor, read_bytes, read_safetensors
from excise.config import PromptSource, Settings
from excise.devices.environment import versions
from excise.edits.edit import Edit
from excise.edits.matrices import blocks_of, edited
from excise.errors import RunError
from excise.reproduce.fingerprint import fingerprint
from excise.reproduce.record import (
    FORMAT,
    Change,
    Circumstances,
    Original,
    PromptSets,
    RecordedTrial,
    Reproduction,
)
from excise.rewrite.plan import Plan, Rewrite
from excise.rewrite.tensor_data import TensorData, steps_for
from excise.search.study import DONE
from excise.store.directory import RunDirectory
from excise.system.json_files import first_fault
from excise.system.paths import expanded


def reproduction_of(
    directory: RunDirectory,
    source: ModelSource,
    number: int,
    figures: str,
    *,
    hardware: bool = True,
) -> Reproduction:
    """The record of a trial before its files are written, without tensors.

    hardware: False omits hardware details. Raises RunError if the run directory lacks data for a record or
    has settings of another version.
    """
    identity = directory.identity()
    record: dict[str, Any] = directory.record()
    edit = directory.edit(number)
    if record.get("circumstances") is None:
        raise RunError(
            f"{directory.path}: was written by an older excise and lacks data for reproduce.json; run the "
            "command that made it once more, then export it"
        )
    recorded = {
        **record["circumstances"],
        "dtype": record["dtype"],
        "batch_size": record["batch_size"],
    }
    if not hardware:
        recorded.pop("hardware", None)
    try:
        settings = Settings.model_validate(identity.settings)
        prompts = PromptSets.model_validate(record["prompts"])
        circumstances = Circumstances.model_validate(recorded)
    except ValidationError as error:
        raise RunError(
            f"{directory.path}: is damaged or of another version of excise: {first_fault(error)}"
        ) from error
    return Reproduction(
        format=FORMAT,
        made="model",
        model=Original(name=source.reference, revision=source.revision, digest=source.digest),
        seed=settings.seed,
        settings=_with_absolute_paths(settings, source),
        settings_digest=identity.settings_digest,
        prompts=prompts,
        trial=_trial(number, edit, record),
        circumstances=circumstances,
        written_with=versions(),
        figures=figures,
        tensors={},
        changes=(),
    )


def _trial(number: int, edit: Edit, record: Mapping[str, Any]) -> RecordedTrial:
    """The saved trial, from its edit and the run's record."""
    writers = len(dict.fromkeys(edit.writers))
    return RecordedTrial(
        number=number,
        parameters=dict(edit.parameters),
        # An edit of several directions repeats them.
        strengths=tuple(edit.strengths[:writers].tolist()),
        completed=sum(
            trial["state"] in DONE and trial["number"] <= number for trial in record["trials"]
        ),
        facts=dict(edit.facts),
    )


def _with_absolute_paths(settings: Settings, source: ModelSource) -> Settings:
    """The settings with absolute paths, valid in any working directory."""
    changed: dict[str, object] = {"model": source.reference}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, PromptSource) and expanded(value.source).exists():
            place = str(expanded(value.source).absolute())
            changed[field] = value.model_copy(update={"source": place})
    template = settings.chat_template  # A file, or the name of a template of the model.
    if template is not None and expanded(template).is_file():
        changed["chat_template"] = str(expanded(template).absolute())
    return settings.model_copy(update=changed)


def model_record(known: Reproduction, plan: Plan, folder: Path) -> Reproduction:
    """`known` with the tensors of the model that `plan` wrote to `folder`; each writer is one change.

    Raises ModelError if a file cannot be read.
    """
    tensors = {}
    written = open_checkpoint(folder).tensors
    by_output = {one.output.name: one for one in plan.rewrites.values()}
    for name, (file, entry) in sorted(written.items()):
        rewrite = by_output.get(name)
        if rewrite is None:
            data = read_bytes(file.path, entry.start, entry.end)
            # The codes' fingerprint includes the effect of changed scales.
            numbers: list[Tensor] | None = [] if name in plan.changes else None
            tensors[name] = fingerprint(entry.dtype, entry.shape, data, numbers)
        else:
            stored = TensorData(rewrite.written(written))
            parts = [stored.tensor] if rewrite.repacking is None else stored.matrices()
            tensors[name] = fingerprint(entry.dtype, entry.shape, stored.data, parts)
    changes: dict[str, list[Rewrite]] = {}
    for rewrite in plan.rewrites.values():
        changes.setdefault(rewrite.writer, []).append(rewrite)
    return known.model_copy(
        update={
            "made": "model",
            "packed": plan.form,
            "tensors": tensors,
            "changes": tuple(
                Change(
                    tensors=tuple(
                        name
                        for one in rewrites
                        for name in (
                            one.output.name,
                            *(entry.name for entry in one.changed_scales.values()),
                        )
                    ),
                    size=math.hypot(*(change_size(plan, one) for one in rewrites)),
                )
                for rewrites in changes.values()
            ),
        }
    )


def adapter_record(known: Reproduction, folder: Path) -> Reproduction:
    """`known` with the tensors of the adapter in `folder`; each tensor is one change.

    Raises ModelError if the file cannot be read.
    """
    file = read_safetensors(folder / "adapter_model.safetensors")
    tensors = {}
    for one in sorted(file.tensors, key=lambda one: one.name):
        data = read_bytes(file.path, one.start, one.end)
        numbers = [as_tensor(data, one.dtype, one.shape)]
        tensors[one.name] = fingerprint(one.dtype, one.shape, data, numbers)
    changes = tuple(Change(tensors=(name,), size=one.norm or 0.0) for name, one in tensors.items())
    return known.model_copy(update={"made": "adapter", "tensors": tensors, "changes": changes})


def change_size(plan: Plan, rewrite: Rewrite) -> float:
    """‖W' − W‖ (Frobenius) over the matrices or biases of a stored tensor, before packing."""
    squares = 0.0
    for matrix, steps in zip(TensorData(rewrite).matrices(), steps_for(plan, rewrite), strict=True):
        for columns in blocks_of(matrix):
            squares += float((edited(columns, steps) - columns).double().square().sum())
    return math.sqrt(squares)
