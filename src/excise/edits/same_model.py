"""Checks that a checkpoint is the base model of an edit."""

from __future__ import annotations

from excise.checkpoint.source import ModelSource
from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.events import Emit, Note


def require_base(edit: EditValues, source: ModelSource, *, force: bool, emit: Emit) -> None:
    """Raise SaveError unless `source` is the base model of the edit. force: emit a warning instead."""
    if edit.base is None:
        differs = "the edit does not name its checkpoint"
    elif edit.base.index is None and not edit.base.can_compare_contents(source):
        differs = f"the edit file is old and holds no digests of {edit.base.model}"
    elif found := edit.base.differences(source):
        differs = (
            f"the edit was made of {edit.base.model}, from which it differs in {'; '.join(found)}"
        )
    else:
        if not edit.base.can_compare_contents(source):
            emit(
                Note(
                    f"names and shapes equal those of {edit.base.model}; contents cannot be compared: "
                    "the edit file is old and only one of both models is on the hub"
                )
            )
        return
    if not force:
        raise SaveError(
            f"{source.name} is not the checkpoint that the edit was made of: {differs}; give that "
            "checkpoint, or --force to apply the edit anyway"
        )
    emit(
        Note(
            f"going on with --force although {differs}: the direction was found in other weights, so the "
            "edit may remove something else, or nothing"
        )
    )
