"""Local prompts: .txt, .jsonl, .json, .csv and .parquet files, and folders that `datasets` saved.

Files are read with the standard library (parquet with pyarrow), so that errors name the line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow  # type: ignore[import-untyped]

from excise.errors import PromptError, first_line, translated
from excise.prompts.columns import Columns
from excise.prompts.parquet import read_parquet
from excise.prompts.rows import Rows
from excise.prompts.source import FILE_SUFFIXES, Split
from excise.system.files import require_fetched
from excise.system.json_files import parse_json, read_json_object


def read_file(path: Path, columns: Columns) -> Rows:
    """All rows of a file, in order; for a text file, its non-blank lines.

    Raises PromptError: no such file, an empty file, an unknown ending, not UTF-8, a malformed line, or no
    column of prompts.
    """
    if not path.exists():
        raise PromptError(f"{path}: no such file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(
            f"{path}: prompts are read from {', '.join(FILE_SUFFIXES)}, not from "
            f"{path.suffix or 'a file without an ending'}"
        )
    require_fetched(path, PromptError)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not content.strip():
        raise PromptError(f"{path}: the file is empty; it needs prompts")
    return reader(content, columns, path)


def _lines(content: bytes, path: Path) -> list[str]:
    """Decoded lines. Only CR and LF end a line: a prompt may contain U+2028 or a form feed."""
    return _decode(content, path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _decode(content: bytes, path: Path) -> str:
    try:
        # Some editors write a byte order mark, which is not part of the first prompt.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's offset does not count the byte order mark.
        offset = error.start + len(content) - len(error.object)
        line = content.count(b"\n", 0, offset) + 1
        raise PromptError(
            f"{path}: not UTF-8: byte {offset}, on line {line}, is 0x{content[offset]:02x}; "
            "save the file as UTF-8"
        ) from None


def _read_txt(content: bytes, columns: Columns, path: Path) -> Rows:
    return Rows(columns.prompts, [line for line in _lines(content, path) if line.strip()])


def _read_jsonl(content: bytes, columns: Columns, path: Path) -> Rows:
    rows: list[dict[str, object]] = []
    places: list[str] = []
    for number, line in enumerate(_lines(content, path), start=1):
        if line.strip():
            places.append(f"{path}: line {number}")
            rows.append(
                _object(_json(line, places[-1]), columns, f"{places[-1]}: not a JSON object")
            )
    return Rows.of(rows, columns, places)


def _read_json(content: bytes, columns: Columns, path: Path) -> Rows:
    table = _json(_decode(content, path), str(path))
    if not isinstance(table, list) or not table:
        raise PromptError(f"{path}: not a list of rows; write JSON objects in [ and ]")
    places = [f"{path}: row {number}" for number in range(1, len(table) + 1)]
    rows = [
        _object(row, columns, f"{place}: not a JSON object")
        for row, place in zip(table, places, strict=True)
    ]
    return Rows.of(rows, columns, places)


def _json(text: str, where: str) -> object:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise PromptError(f"{where}: not JSON (character {error.pos + 1}): {error.msg}") from None
    except ValueError as error:
        raise PromptError(f"{where}: not JSON: {error}") from None


def _object(row: object, columns: Columns, fault: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise PromptError(f'{fault}; write one for each prompt, as {{"{columns.prompts}": "…"}}')
    return row


def _read_csv(content: bytes, columns: Columns, path: Path) -> Rows:
    reader = csv.DictReader(io.StringIO(_decode(content, path), newline=""), strict=True)
    try:
        there = tuple(reader.fieldnames or ())
        column, group = columns.of_prompts(there, str(path)), columns.of_groups(there)
        rows: list[dict[str, str]] = []
        for row in reader:
            if row[column] is None:
                raise PromptError(
                    f"{path}: line {reader.line_num}: fewer fields than the header has columns"
                )
            rows.append(row)
    except csv.Error as error:
        # DictReader's own count stops at the last valid row.
        raise PromptError(f"{path}: line {reader.reader.line_num}: not CSV: {error}") from None
    groups = None if group is None else [row[group] for row in rows]
    return Rows(column, [row[column] for row in rows], groups, there)


_READERS: dict[str, Callable[[bytes, Columns, Path], Rows]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": read_parquet,
}

_MARKS = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes: for several splits, for one data set."""

_DAMAGED = (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException)


def read_saved(folder: Path, columns: Columns, split: Split) -> Rows:
    """All rows of the named or only split, not yet sliced.

    Raises PromptError if the folder is not from `datasets`, is damaged, or lacks the split or a column of
    prompts.
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
    column = columns.of_prompts(data.column_names, str(folder))
    with translated(PromptError, f"{folder}: damaged", *_DAMAGED):
        return rows_of_data(data, column, columns.of_groups(data.column_names))


def rows_of_data(data: Any, column: str, group: str | None) -> Rows:
    """The rows of a `datasets.Dataset`. group: the column of groups, whose classes are given by their names.

    Raises ArrowException or UnicodeDecodeError for damaged data, ValueError for an unknown class.
    """
    groups = None
    if group is not None:
        groups, name_of = _column(data, group), getattr(data.features[group], "int2str", None)
        if name_of is not None:
            groups = [None if each is None else name_of(each) for each in groups]
    return Rows(column, _column(data, column), groups, tuple(data.column_names))


def _column(data: Any, column: str) -> list[object]:
    """All cells of a column, not decoded: decoding images or audio would open files and URLs in cells."""
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
