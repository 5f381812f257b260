"""The original's licence, notices and rules of use, which accompany every edited copy."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from excise.checkpoint.folder import require_inside
from excise.checkpoint.source import ModelSource, snapshot_origin

_NAMES = ("licen[cs]e*", "notice*", "copying*", "*use*policy*", "*acceptable*use*")
_TEXT = ("", ".txt", ".md", ".rst")


def terms_of(source: ModelSource) -> dict[str, str]:
    """Texts in the model's top folder, by name. Raises SaveError for a link out of the folder.

    For a GGUF file only a snapshot of the hub is read, because other folders may hold several models.
    """
    if source.gguf is not None and snapshot_origin(source.folder) is None:
        return {}
    found = {path.name: path for path in sorted(source.folder.iterdir()) if _is_terms(path)}
    for path in found.values():
        require_inside(source.folder, path)
    return {
        name: path.read_text(encoding="utf-8", errors="replace") for name, path in found.items()
    }


def _is_terms(path: Path) -> bool:
    return (
        path.suffix.lower() in _TEXT
        and any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in _NAMES)
        and path.is_file()
    )
