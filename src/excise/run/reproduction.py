"""`reproduce.json` of what is being saved: from the run directory, the edit, and the files just written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from excise.edit.edit import Edit
from excise.edit.layout import Layout
from excise.edit.matrices import MatrixOperators, parts
from excise.errors import RunError
from excise.model.source import ModelSource
from excise.model.weights import dense
from excise.model.writers import Writer
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


def reproduction_of(
    directory: RunDirectory,
    source: ModelSource,
    number: int,
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
        made="model",
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
                trial["state"] == "complete" and trial["number"] <= number
                for trial in record["trials"]
            ),
            facts=dict(edit.facts),
        ),
        circumstances=Circumstances.model_validate(known),
        written_with=versions(),
        figures=figures,
        tensors={},
        changes=(),
    )


def record_model(
    known: Reproduction,
    folder: Path,
    edit: Edit,
    model: PreTrainedModel,
    writers: Iterable[Writer],
    layout: Layout,
) -> None:
    """Write `reproduce.json` beside an edited model: one change for each writer. Raises SaveError.

    model: the unedited one; layout: where the checkpoint stores each of `writers`.
    """
    stored_as = {
        writer: tuple(name for one in layout[writer] for name in _spellings(one.name))
        for writer in edit.changed
    }
    wanted = {name for names in stored_as.values() for name in names}
    tensors = fingerprints(folder, wanted.__contains__)
    changes = tuple(
        Change(
            tensors=tuple(name for name in stored_as[writer.name] if name in tensors),
            size=change_size(edit, model, writer),
        )
        for writer in writers
        if writer.name in stored_as
    )
    whole = known.model_copy(update={"made": "model", "tensors": tensors, "changes": changes})
    whole.save(folder / NAME)


def record_adapter(known: Reproduction, folder: Path) -> None:
    """Write `reproduce.json` beside an adapter, whose every tensor is a change. Raises SaveError."""
    tensors = fingerprints(folder, lambda name: True)
    changes = tuple(
        Change(tensors=(name,), size=stored.norm or 0.0) for name, stored in tensors.items()
    )
    whole = known.model_copy(update={"made": "adapter", "tensors": tensors, "changes": changes})
    whole.save(folder / NAME)


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


def _spellings(name: str) -> tuple[str, ...]:
    """Names that a checkpoint may have for a tensor: base models leave out the leading `model.`"""
    return tuple(dict.fromkeys((name, name.removeprefix("model."), f"model.{name}")))
