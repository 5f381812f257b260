"""Folders that `datasets` saved with `save_to_disk`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow  # type: ignore[import-untyped]

from excise.errors import PromptError, first_line, translated
from excise.prompts.columns import check_column
from excise.prompts.source import Split
from excise.system.json_files import read_json_object

_MARKS = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes: for several splits, for one data set."""

_DAMAGED = (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)


def read_saved(folder: Path, column: str, split: Split) -> list[object]:
    """All rows of a column of the named or only split, not yet sliced.

    Raises PromptError if the folder is not from `datasets`, is damaged, or lacks the split or column.
    """
    if not any((folder / mark).exists() for mark in _MARKS):
        raise PromptError(
            f"{folder}: not a folder saved by datasets (save_to_disk); give such a folder, or a file"
        )
    # Imported here because datasets takes a second to import.
    import datasets

    _require_inside(folder)
    try:
        data = datasets.load_from_disk(str(folder))
    except _DAMAGED as error:
        raise PromptError(f"{folder}: damaged: {first_line(error)}; save it again") from None
    if isinstance(data, datasets.DatasetDict):
        data = data[choose_split(split, list(data), str(folder))]
    elif split.name is not None and split.name != str(data.split):
        raise PromptError(
            f"{folder}: no split {split.name}, it holds one data set"
            + (f", {data.split}" if data.split else "")
            + "; leave the name out"
        )
    check_column(column, data.column_names, str(folder))
    with translated(PromptError, f"{folder}: damaged", *_DAMAGED):
        return column_of(data, column)


def column_of(data: Any, column: str) -> list[object]:
    """All rows of a column of a `datasets.Dataset`, not decoded.

    Decoding images or audio would open files and URLs that rows name. Raises ArrowException or
    UnicodeDecodeError for damaged data.
    """
    table = data.select_columns([column]).with_format("arrow")[:]
    # Mapped files are not checked: lengths may be wrong, and texts may not be UTF-8.
    table.validate(full=True)
    return list(table.column(column).to_pylist())


def _require_inside(folder: Path) -> None:
    """Raise PromptError if the folder's metadata name files or splits outside the folder."""
    splits = _entries(folder / _MARKS[0], "splits")
    for part in (folder, *(folder / split for split in splits if _is_name(split))):
        files = _entries(part / _MARKS[1], "_data_files")
        named = [one.get("filename") if isinstance(one, dict) else one for one in files]
        for name in (*splits, *named):
            if not _is_name(name):
                raise PromptError(f"{part}: damaged: names {name}, which is not a file in it")


def _entries(path: Path, key: str) -> list[Any]:
    """A list in a JSON file; empty without the file. Raises PromptError."""
    if not path.is_file():
        return []
    found = read_json_object(path, PromptError).get(key, [])
    if not isinstance(found, list):
        raise PromptError(f"{path.parent}: damaged {path.name}: no list of {key}; save it again")
    return found


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and PurePosixPath(name).name == PureWindowsPath(name).name == name
    )


def choose_split(split: Split, names: list[str], where: str) -> str:
    """The name of the split to read: the named split, or the only split.

    Raises PromptError for an unknown split, and for several splits without a name.
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
