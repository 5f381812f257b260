"""Folders that `datasets` saved with `save_to_disk`."""

from __future__ import annotations

from pathlib import Path

import pyarrow  # type: ignore[import-untyped]

from excise.errors import PromptError
from excise.prompts.columns import check_column
from excise.prompts.slices import Split

_MARKS = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` leaves in the folder: of several splits, of one data set."""


def read_saved(folder: Path, column: str, split: Split) -> list[object]:
    """All rows of a column in the split that is named, or in the only one; not yet sliced.

    Raises:
        PromptError: the folder is none of `datasets`', is damaged, or lacks the split or column.
    """
    if not any((folder / mark).exists() for mark in _MARKS):
        raise PromptError(
            f"{folder}: not a folder saved by datasets (save_to_disk); give that, or a file"
        )
    # Imported here because it takes a second, which whoever reads a text file need not wait.
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise PromptError(f"{folder}: damaged: {first_line(error)}; save it anew") from None
    if isinstance(data, datasets.DatasetDict):
        data = data[choose_split(split, list(data), str(folder))]
    elif split.name is not None and split.name != str(data.split):
        raise PromptError(
            f"{folder}: no split {split.name}, it holds one data set"
            + (f", {data.split}" if data.split else "")
            + "; leave the name out"
        )
    check_column(column, data.column_names, str(folder))
    return list(data[column])


def choose_split(split: Split, names: list[str], where: str) -> str:
    """The name of the split to read: the one asked for, or the only one there is.

    Raises:
        PromptError: no such split, or several and none is named.
    """
    there = ", ".join(names)
    if split.name is None:
        if len(names) == 1:
            return names[0]
        raise PromptError(
            f"{where}: name a split, it has {there}; write {where}:{names[0]}{split.expression}"
        )
    if split.name not in names:
        raise PromptError(f"{where}: no split {split.name}, it has {there}")
    return split.name


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, which may go on for many."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
