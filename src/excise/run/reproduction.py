"""`reproduce.json` of what is being saved: from the run directory, the edit, and the files just written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel

from excise.edit.edit import Edit
from excise.edit.layout import spellings, stored_tensors
from excise.edit.matrices import MatrixOperators, parts
from excise.errors import RunError
from excise.model.load import LoadedModel
from excise.model.source import ModelSource
from excise.model.weights import dense
from excise.model.writers import Anatomy, Writer
from excise.reproduce.environment import versions
from excise.reproduce.fingerprint import fingerprints
from excise.reproduce.record import (
    FORMAT,
    NAME,
    Change,
    Circumstances,
    Original,
    Prompts,
    Reproduction,
    Trial,
)
from excise.run.directory import RunDirectory
from excise.search.study import DONE


def reproduction_of(
    directory: RunDirectory,
    source: ModelSource,
    number: int,
    made: Literal["model", "adapter"],
    figures: str,
    *,
    hardware: bool = True,
) -> Reproduction:
    """What is known of a trial of a run before anything is written: a record without tensors.

    hardware: False leaves that part out. Raises RunError if the run was last written by an excise that did
    not record this.
    """
    identity: dict[str, Any] = directory.identity()
    record: dict[str, Any] = directory.record()
    edit = directory.edit(number)
    if "circumstances" not in record:
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
    writers = len(dict.fromkeys(edit.writers))
    return Reproduction(
        format=FORMAT,
        made=made,
        model=Original(name=source.name, revision=source.revision, digest=source.digest),
        seed=identity["settings"]["seed"],
        settings=identity["settings"],
        settings_digest=identity["settings_digest"],
        prompts={
            kind: {part: Prompts.model_validate(one) for part, one in parts.items()}
            for kind, parts in record["prompts"].items()
        },
        trial=Trial(
            number=number,
            parameters=dict(edit.parameters),
            # An edit of several directions repeats them.
            strengths=tuple(edit.strengths[:writers].tolist()),
            completed=sum(
                trial["state"] in DONE and trial["number"] <= number for trial in record["trials"]
            ),
            facts=dict(edit.facts),
        ),
        circumstances=Circumstances.model_validate(known),
        written_with=versions(),
        figures=figures,
        tensors={},
        changes=(),
    )


def record_saved(
    known: Reproduction, folder: Path, edit: Edit, loaded: LoadedModel, anatomy: Anatomy
) -> Reproduction:
    """Write `reproduce.json` beside what was saved in `folder` (`known.made`): `known` and the tensors.

    loaded: the unedited model. Of an adapter every tensor is a change by itself; of a model, what a writer
    is stored as is one. Raises SaveError.
    """
    if known.made == "adapter":
        tensors = fingerprints(folder, lambda name: True)
        changes = [Change(tensors=(name,), size=one.norm or 0.0) for name, one in tensors.items()]
    else:
        stored_as = {
            writer.name: tuple(
                name
                for tensor in writer.tensors
                for one in stored_tensors(loaded.model, tensor)
                for name in spellings(one.name)
            )
            for writer in anatomy.writers
            if writer.name in edit.changed
        }
        wanted = {name for names in stored_as.values() for name in names}
        tensors = fingerprints(folder, wanted.__contains__)
        changes = [
            Change(tensors=names, size=change_size(edit, loaded.model, writer))
            for writer in anatomy.writers
            if (names := tuple(n for n in stored_as.get(writer.name, ()) if n in tensors))
        ]
    record = known.model_copy(update={"tensors": tensors, "changes": tuple(changes)})
    record.save(folder / NAME)
    return record


def change_size(edit: Edit, model: PreTrainedModel, writer: Writer) -> float:
    """‖W' − W‖ (Frobenius) over all matrices and biases of a writer; model: the unedited one."""
    operators = MatrixOperators(edit, writer.name)
    squares = 0.0
    for tensor in writer.tensors:
        owner, _, name = tensor.name.rpartition(".")
        values: Tensor = dense(model.get_submodule(owner), name)
        for part in parts(values, tensor.axis, bias=tensor.bias):
            squares += float((operators.edited(part) - part).double().square().sum())
    return math.sqrt(squares)
