"""Strict reading of JSON from untrusted files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.errors import ExciseError, first_line
from excise.system.files import require_fetched


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for text that is not UTF-8 or not JSON, for duplicate names in an object and for too
    deep nesting.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json_object(path: Path, to: type[ExciseError]) -> dict[str, Any]:
    """The JSON object in a file. Raises `to` if the file is damaged or missing."""
    if path.exists() and not path.is_file():
        # Reading a pipe would block.
        raise to(f"{path}: damaged: not a file")
    require_fetched(path, to)
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise to(f"{path}: cannot be read ({first_line(error)})") from error
    except ValueError as error:
        raise to(f"{path}: damaged: not JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise to(f"{path}: damaged: holds {type(content).__name__} where a JSON object should be")
    return content


def first_fault(error: ValidationError) -> str:
    """Location and message of the first validation error."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice in an object")
    return content
