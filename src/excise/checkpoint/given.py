"""JSON files of a checkpoint as somebody gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from excise.errors import ModelError, translated
from excise.lfs import require_fetched


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    require_fetched(path, ModelError)
    # RecursionError: brackets within brackets.
    with translated(ModelError, f"{path}: cannot be read", OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is no JSON object")
    return content
