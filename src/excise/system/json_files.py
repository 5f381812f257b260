"""Reading JSON that may come from anywhere: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from excise.errors import ExciseError, first_line
from excise.system.lfs import require_fetched


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises ValueError for whatever is wrong with it: not UTF-8, not JSON, a name that stands twice in an
    object, of which readers would take one or the other, or brackets nested too deeply to be read.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json_object(path: Path, to: type[ExciseError]) -> dict[str, Any]:
    """The JSON object that a file holds. Raises `to`, naming the file, if it cannot be read or is damaged.

    A file that is not there raises FileNotFoundError: only the caller knows what that means.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        # Reading a pipe, say, would wait for somebody to write to it.
        raise to(f"{path}: damaged: is no file")
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
    """The first thing that is wrong with what a JSON document holds: where, and what."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return content
