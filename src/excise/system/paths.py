r"""Paths told from other names by their text alone, in the same way on every system.

`C:\models\x` is a path on Windows only, but nothing else anywhere: no hub id holds a colon or a backslash.
"""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

RESERVED = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10)),
    ]
)
"""Names that Windows keeps for devices, in any folder and with any ending."""

_LONGEST = 60
"""Characters. Windows allows 260 in a whole path, unless it is told otherwise."""


def names_a_path(text: str) -> bool:
    """True if `text` can only be a path: neither the id of a model nor that of a data set on the hub."""
    return (
        text.startswith((".", "/", "~"))
        or "\\" in text
        or (text[1:2] == ":" and is_drive(text[0]))
        or text.count("/") > 1
    )


def expanded(text: str | Path) -> Path:
    """`text` as a path, with `~` as the home folder; as it is where there is no such user."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_drive(text: str) -> bool:
    """True if `text`, which stands before a colon, is the letter of a drive on Windows."""
    return len(text) == 1 and text.isascii() and text.isalpha()


def last_part(path: str) -> str:
    """The name at the end of a path that is written in either system's way; may be empty."""
    return PureWindowsPath(path).name


def directory_name(text: str) -> str:
    """A name like `text` that a folder can have on every system: short, plain, and no device's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:_LONGEST].rstrip("-.") or "model"
    return f"model-{name}" if name.partition(".")[0].lower() in RESERVED else name
