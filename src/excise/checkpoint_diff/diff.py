"""Two checkpoints, named as users name them, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from excise.checkpoint_diff.checkpoint import open_compared
from excise.checkpoint_diff.compare import Progress, compare_tensors, no_progress
from excise.checkpoint_diff.layout import layout_of
from excise.checkpoint_diff.result import TensorComparison
from excise.checkpoint_diff.undo import recovered_edit, save_undo
from excise.edits.edit import Edit
from excise.errors import ModelError
from excise.models.meta_model import meta_model
from excise.system.paths import expanded


class Diff(TensorComparison):
    """All differences of two checkpoints. `TensorComparison` describes the fields."""

    def edit(self) -> Edit:
        """The difference as an edit of the first checkpoint.

        Raises SaveError if a difference is not explained by operators on writers.
        """
        return recovered_edit(self)

    def save_undo(self, folder: str | Path) -> None:
        """Write a peft adapter that turns the second checkpoint into the first, within rounding.

        folder: a new folder. Raises SaveError, before anything is written, if a
        change cannot be undone.
        """
        save_undo(self, expanded(folder))


def diff(
    first: str | Path,
    second: str | Path,
    *,
    revision: str | None = None,
    writers: Sequence[str] = (),
    trust_remote_code: bool = False,
    progress: Progress = no_progress,
) -> Diff:
    """Compare two checkpoints: which tensors differ, at which rank, and which edit made the difference.

    first, second: local folders, weight files or hub ids; a hub id may end in @REVISION, else it is of
    `revision`. writers: claims about writers, "PATTERN=COMPONENT". progress: called with each tensor's name,
    its number and how many tensors there are. Memory: a few pieces of one tensor.
    Raises ModelError for files that cannot be read or are packed, HubError.
    """
    before, after = (open_compared(str(name), revision) for name in (first, second))
    described = after if after.source else before
    model, layout, why_not = None, {}, ""
    if described.source is None:
        why_not = f"{described.name} has no config.json, so that writers are not known"
    else:
        try:
            folder = described.source.folder
            model = meta_model(described.name, folder, trust_remote_code=trust_remote_code)
            layout = dict(layout_of(model, after.index, writers))
        except ModelError as error:
            model, why_not = None, str(error)
    found = compare_tensors(before, after, layout, progress)
    return Diff(**vars(replace(found, model=model, why_not=why_not)))
