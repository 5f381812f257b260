"""`reproduce.json` of what is being saved: from the run directory, the plan, and the files just written."""

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
    """What is known of a trial of a run before anything is written: the record of no tensors yet.

    hardware: False leaves that part out. Raises RunError if the run was last written by an excise that did
    not record this, or knows other settings.
    """
    identity = directory.identity()
    record: dict[str, Any] = directory.record()
    edit = directory.edit(number)
    if record.get("circumstances") is None:
        raise RunError(
            f"{directory.path}: was written by an excise that recorded less; open it once more with the "
            "command that made it, and export it then"
        )
    known = {
        **record["circumstances"],
        "dtype": record["dtype"],
        "batch_size": record["batch_size"],
    }
    if not hardware:
        known.pop("hardware", None)
    try:
        settings = Settings.model_validate(identity.settings)
        prompts = PromptSets.model_validate(record["prompts"])
        circumstances = Circumstances.model_validate(known)
    except ValidationError as error:
        raise RunError(
            f"{directory.path}: was written by another excise, or is damaged: {first_fault(error)}"
        ) from error
    return Reproduction(
        format=FORMAT,
        made="model",
        model=Original(name=source.reference, revision=source.revision, digest=source.digest),
        seed=settings.seed,
        settings=_from_anywhere(settings, source),
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
    """The trial that is saved, as its edit and the run's record tell it."""
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


def _from_anywhere(settings: Settings, source: ModelSource) -> Settings:
    """Settings whose files are named such that they are found from any working directory."""
    changed: dict[str, object] = {"model": source.reference}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if isinstance(value, PromptSource) and expanded(value.source).exists():
            place = str(expanded(value.source).absolute())
            changed[field] = value.model_copy(update={"source": place})
    template = settings.chat_template  # A file, or the name of one of the model's own.
    if template is not None and expanded(template).is_file():
        changed["chat_template"] = str(expanded(template).absolute())
    return settings.model_copy(update=changed)


def model_record(known: Reproduction, plan: Plan, folder: Path) -> Reproduction:
    """`known` and the tensors of the model that was written to `folder` by `plan`.

    What a writer is stored as is one change. Raises ModelError if a file cannot be read again.
    """
    tensors = {}
    written = open_checkpoint(folder).tensors
    by_output = {one.output.name: one for one in plan.rewrites.values()}
    for name, (file, entry) in sorted(written.items()):
        rewrite = by_output.get(name)
        if rewrite is None:
            data = read_bytes(file.path, entry.start, entry.end)
            # Scales that change with codes are measured with them.
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
    """`known` and the tensors of the adapter in `folder`, each of which is a change by itself.

    Raises ModelError if the file cannot be read again.
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
    """‖W' − W‖ (Frobenius) over the matrices, or biases, of a stored tensor, before they are packed again."""
    squares = 0.0
    for matrix, steps in zip(TensorData(rewrite).matrices(), steps_for(plan, rewrite), strict=True):
        for columns in blocks_of(matrix):
            squares += float((edited(columns, steps) - columns).double().square().sum())
    return math.sqrt(squares)
