"""Files of a checkpoint as somebody gave them: JSON objects, and pointers in place of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from excise.errors import ModelError, translated

_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the text begins that Git keeps in place of a file of its Large File Storage."""


def require_fetched(path: Path) -> None:
    """Raise ModelError if the file cannot be opened, or is a Git LFS pointer in place of the file meant."""
    with translated(ModelError, f"{path}: cannot be read", OSError), path.open("rb") as file:
        beginning = file.read(len(_POINTER))
    if beginning == _POINTER:
        raise ModelError(
            f"{path}: is a Git LFS pointer in place of the file; bring the file with: git lfs pull"
        )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    require_fetched(path)
    # RecursionError: brackets within brackets.
    with translated(ModelError, f"{path}: cannot be read", OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is no JSON object")
    return content
