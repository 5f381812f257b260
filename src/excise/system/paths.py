r"""Recognises paths by their text, in the same way on every system.

`C:\models\x` counts as a path on every system, because hub ids contain no colon or backslash.
"""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

_PORTS = [f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10)]
RESERVED = frozenset(("con", "prn", "aux", "nul", *_PORTS))
"""Names that Windows reserves for devices, with any suffix."""

_LONGEST = 60
"""Characters of a folder's name. Windows allows 260 in a whole path by default."""


def names_a_path(text: str) -> bool:
    """True if `text` can only be a path, not a hub id."""
    return (
        text.startswith((".", "/", "~"))
        or "\\" in text
        or (text[1:2] == ":" and is_drive(text[0]))
        or text.count("/") > 1
    )


def expanded(text: str | Path) -> Path:
    """`text` as a path, with `~` expanded; unchanged for an unknown user."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_drive(text: str) -> bool:
    """True if `text` (before a colon) is a Windows drive letter."""
    return len(text) == 1 and text.isascii() and text.isalpha()


def last_part(path: str) -> str:
    """The last name of a POSIX or Windows path; may be empty."""
    return PureWindowsPath(path).name


def directory_name(text: str) -> str:
    """A name like `text` that is valid for a folder on every system."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:_LONGEST].rstrip("-.") or "model"
    return f"model-{name}" if name.partition(".")[0].lower() in RESERVED else name
