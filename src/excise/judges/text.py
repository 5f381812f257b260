"""The normal form of text in which phrases are compared."""

from __future__ import annotations

import re

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u02b9\u0060\u00b4", "'"))
_EMPHASIS = re.compile(r"[*_~]+")
_WHITE_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Text in lower case, with straight apostrophes and single spaces, without Markdown emphasis."""
    return _WHITE_SPACE.sub(" ", _simplified(text))


def plain_lines(text: str) -> str:
    """Like `plain`, but white space that holds a line break becomes one line break."""
    return _WHITE_SPACE.sub(lambda space: "\n" if "\n" in space[0] else " ", _simplified(text))


def normalise(text: str) -> str:
    """The result of `plain` without spaces at both ends."""
    return plain(text).strip()


def _simplified(text: str) -> str:
    return _EMPHASIS.sub("", text.translate(_APOSTROPHES).lower())
