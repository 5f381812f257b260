"""Reads columns of a parquet file, which a few kilobytes can make arbitrarily long."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow  # type: ignore[import-untyped]
import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from excise.errors import PromptError
from excise.prompts.columns import Columns
from excise.prompts.rows import Rows

MOST_ROWS, MOST_BYTES = 10_000_000, 1 << 30
"""Limits of a column."""
_BATCH, _NESTED_BATCH = 1 << 12, 1 << 6


def read_parquet(content: bytes, columns: Columns, path: Path) -> Rows:
    """The rows of a parquet file. Raises PromptError."""
    try:
        names = tuple(pyarrow.parquet.read_schema(io.BytesIO(content)).names)
        column, group = columns.of_prompts(names, str(path)), columns.of_groups(names)
        values = _cells(content, column, path)
        groups = None if group is None else _cells(content, group, path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: not a parquet file, or a damaged one: {error}") from None
    return Rows(column, values, groups, names)


def _cells(content: bytes, column: str, path: Path) -> list[object]:
    """All cells of a column, read in batches until one of the limits."""
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
    nested = pyarrow.types.is_nested(file.schema_arrow.field(column).type)
    texts = _texts(file, column)
    # Dictionary-encoded texts are not expanded before their lengths are known.
    file = pyarrow.parquet.ParquetFile(io.BytesIO(content), read_dictionary=texts)
    cells: list[object] = []
    size = 0
    _require_small(_values(file, column), 0, column, path)
    for batch in file.iter_batches(_NESTED_BATCH if nested else _BATCH, columns=[column]):
        part = batch.column(0)
        size += _letters(part)
        _require_small(len(cells) + len(part), size, column, path)
        cells += part.to_pylist()
    return cells


def _texts(file: pyarrow.parquet.ParquetFile, column: str) -> list[str]:
    """The paths of the texts in a column."""
    leaves = (file.schema.column(index) for index in range(len(file.schema)))
    return [
        leaf.path
        for leaf in leaves
        if (leaf.path == column or leaf.path.startswith(f"{column}."))
        and leaf.physical_type == "BYTE_ARRAY"
        and leaf.logical_type.type in ("STRING", "NONE")
    ]


def _values(file: pyarrow.parquet.ParquetFile, column: str) -> int:
    """The number of values in the longest leaf of a column, as the file states it."""
    metadata = file.metadata
    counts: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            path = chunk.path_in_schema
            if path == column or path.startswith(f"{column}."):
                counts[path] = counts.get(path, 0) + chunk.num_values
    return max(counts.values(), default=0)


def _require_small(rows: int, size: int, column: str, path: Path) -> None:
    if rows > MOST_ROWS or size > MOST_BYTES:
        raise PromptError(
            f"{path}: holds more than {MOST_ROWS:,} rows or {MOST_BYTES >> 20} MiB of text in {column}; "
            "give a smaller file"
        )


def _letters(cells: pyarrow.Array) -> int:
    """Bytes of the cells of a column, repetitions included."""
    kind = cells.type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return 8 * len(cells) + _letters(cells.flatten())
    if pyarrow.types.is_struct(kind):
        return len(cells) + sum(map(_letters, cells.flatten()))
    encoded = pyarrow.types.is_dictionary(kind)
    if (kind.value_type if encoded else kind) not in _TEXTS:
        return int(cells.nbytes)
    lengths = pyarrow.compute.binary_length(cells.dictionary if encoded else cells)
    found = pyarrow.compute.sum(lengths.take(cells.indices) if encoded else lengths).as_py()
    return int(found or 0)


_TEXTS = (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary())
