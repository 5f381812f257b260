"""The original's licence, notices and rules of use, which go along with whatever is made of it."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from excise.checkpoint.folder import require_inside
from excise.checkpoint.source import ModelSource, snapshot_origin

_NAMES = ("licen[cs]e*", "notice*", "copying*", "*use*policy*", "*acceptable*use*")
_TEXT = ("", ".txt", ".md", ".rst")


def terms_of(source: ModelSource) -> dict[str, str]:
    """Texts by name, of the model's top folder. Raises SaveError for a link out of it.

    Beside a GGUF file there are none but in the hub's cache: other folders of such files hold many models.
    """
    if source.gguf is not None and snapshot_origin(source.folder) is None:
        return {}
    found = {path.name: path for path in sorted(source.folder.iterdir()) if _is_one(path)}
    for path in found.values():
        require_inside(source.folder, path)
    return {
        name: path.read_text(encoding="utf-8", errors="replace") for name, path in found.items()
    }


def _is_one(path: Path) -> bool:
    return (
        path.suffix.lower() in _TEXT
        and any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in _NAMES)
        and path.is_file()
    )
