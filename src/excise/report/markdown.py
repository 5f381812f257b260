"""Texts of others inside a model card: as text, never as markup."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*_\[\]<>|~&])")
"""What means something inside a line. What does at the start of one never stands there."""
_LONGEST = 500


def inline(value: object) -> str:
    """A value out of somebody's file as one line of plain text in Markdown; a number as it is.

    Longer texts than a line of a card has room for are cut.
    """
    if isinstance(value, int | float):
        return str(value)
    words = "".join(one if one.isprintable() else " " for one in str(value)[: _LONGEST + 1]).split()
    text = " ".join(words)
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return _MARKUP.sub(r"\\\1", cut)


def code(value: object) -> str:
    """The same in a code span, in which nothing can be escaped: its marks are left out."""
    plain = "".join(
        one if one.isprintable() and one != "`" else " " for one in str(value)[:_LONGEST]
    )
    return f"`{' '.join(plain.split()) or ' '}`"
