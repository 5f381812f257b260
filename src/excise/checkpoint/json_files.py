"""JSON files of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise.errors import ModelError, translated
from excise.system.json_files import read_json_object


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError, also for a missing file."""
    with translated(ModelError, f"{path}: cannot be read", FileNotFoundError):
        return read_json_object(path, ModelError)
