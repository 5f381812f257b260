"""Files of a checkpoint as somebody gave them: JSON objects, and pointers in place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise.errors import ModelError, translated
from excise.json_files import read_json_object

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
    return read_json_object(path, ModelError)
