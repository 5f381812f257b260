"""Whether a checkpoint is the one that an edit was made of."""

from __future__ import annotations

from excise.checkpoint.source import ModelSource
from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.events import Emit, Note


def require_base(edit: EditValues, source: ModelSource, *, force: bool, emit: Emit) -> None:
    """Raise SaveError unless `source` is the checkpoint that the edit was made of.

    force: say what it risks and go on.
    """
    if edit.base is None:
        differs = "the edit does not say of which checkpoint it was made"
    elif edit.base.index is None and not edit.base.tells_contents(source):
        differs = f"the edit, an old file, says nothing that could be compared of {edit.base.model}"
    elif found := edit.base.differences(source):
        differs = (
            f"the edit was made of {edit.base.model}, from which it differs in {'; '.join(found)}"
        )
    else:
        if not edit.base.tells_contents(source):
            emit(
                Note(
                    f"names and shapes are those of {edit.base.model}; contents could not be compared, "
                    "because the edit file is an old one and only one of the two is a hub model"
                )
            )
        return
    if not force:
        raise SaveError(
            f"{source.name} is not the checkpoint that the edit was made of: {differs}; give that one, or "
            "--force to apply it all the same"
        )
    emit(
        Note(
            f"going on with --force although {differs}: the direction was found in other weights, and may "
            "take away something else, or nothing"
        )
    )
