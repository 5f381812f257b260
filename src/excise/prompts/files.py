"""Local prompts: .txt, .jsonl, .csv and .parquet files, and folders saved with `save_to_disk` of `datasets`.

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
import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from excise.errors import PromptError, first_line, translated
from excise.prompts.columns import check_column
from excise.prompts.source import FILE_SUFFIXES, Split
from excise.system.files import require_fetched
from excise.system.json_files import parse_json, read_json_object

MOST_ROWS, MOST_BYTES = 10_000_000, 1 << 30
"""Limits of a parquet file's column."""
_BATCH = 1 << 12


def read_file(path: Path, column: str) -> list[object]:
    """All rows of a file's column, in order; for a text file, its non-blank lines.

    Raises PromptError: no such file, an empty file, an unknown ending, not UTF-8, a malformed line, or no
    such column.
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
    return reader(content, column, path)


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


def _read_txt(content: bytes, column: str, path: Path) -> list[object]:
    return [line for line in _lines(content, path) if line.strip()]


def _read_jsonl(content: bytes, column: str, path: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(_lines(content, path), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise PromptError(
                f"{where}: not JSON (character {error.pos + 1}): {error.msg}"
            ) from None
        except ValueError as error:
            raise PromptError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise PromptError(
                f'{where}: not a JSON object; write one on each line, as {{"{column}": "…"}}'
            )
        check_column(column, row, where)
        rows.append(row[column])
    return rows


def _read_csv(content: bytes, column: str, path: Path) -> list[object]:
    reader = csv.DictReader(io.StringIO(_decode(content, path), newline=""), strict=True)
    rows: list[object] = []
    try:
        check_column(column, reader.fieldnames or (), str(path))
        for row in reader:
            if row[column] is None:
                raise PromptError(
                    f"{path}: line {reader.line_num}: fewer fields than the header has columns"
                )
            rows.append(row[column])
    except csv.Error as error:
        # DictReader's own count stops at the last valid row.
        raise PromptError(f"{path}: line {reader.reader.line_num}: not CSV: {error}") from None
    return rows


def _read_parquet(content: bytes, column: str, path: Path) -> list[object]:
    try:
        schema = pyarrow.parquet.read_schema(io.BytesIO(content))
        check_column(column, schema.names, str(path))
        return _column_of(content, column, schema.field(column).type, path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: not a parquet file, or a damaged one: {error}") from None


def _column_of(content: bytes, column: str, kind: pyarrow.DataType, path: Path) -> list[object]:
    """A column, read in batches, because a few kilobytes of parquet can decode to any number of rows."""
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary())
    is_text = kind in texts
    # Lists and tables are not prompts: one row is enough for the error.
    nested = pyarrow.types.is_nested(kind)
    # Dictionary-encoded texts are not expanded before their lengths are known.
    file = pyarrow.parquet.ParquetFile(
        io.BytesIO(content), read_dictionary=[column] if is_text else None
    )
    rows: list[object] = []
    size = 0
    for batch in file.iter_batches(1 if nested else _BATCH, columns=[column]):
        cells = batch.column(0)
        size += _letters(cells) if is_text else cells.nbytes
        if len(rows) + len(cells) > MOST_ROWS or size > MOST_BYTES:
            raise PromptError(
                f"{path}: holds more than {MOST_ROWS:,} rows or {MOST_BYTES >> 20} MiB of text in {column}; "
                "give a smaller file"
            )
        rows += cells.to_pylist()
        if nested:
            break
    return rows


def _letters(cells: pyarrow.Array) -> int:
    """Bytes of the texts of a column, repetitions included."""
    encoded = pyarrow.types.is_dictionary(cells.type)
    lengths = pyarrow.compute.binary_length(cells.dictionary if encoded else cells)
    return pyarrow.compute.sum(lengths.take(cells.indices) if encoded else lengths).as_py() or 0


_READERS: dict[str, Callable[[bytes, str, Path], list[object]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


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
