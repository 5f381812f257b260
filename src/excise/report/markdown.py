"""Escapes foreign texts for a model card, so that they are never markup."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*_\[\]<>|~&])")
"""Characters with a meaning inside a line; foreign texts never begin a line."""
_LONGEST = 500


def inline(value: object) -> str:
    """A foreign value as one line of escaped text, cut to a bounded length; a number is unchanged."""
    if isinstance(value, int | float):
        return str(value)
    words = "".join(
        char if char.isprintable() else " " for char in str(value)[: _LONGEST + 1]
    ).split()
    text = " ".join(words)
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return _MARKUP.sub(r"\\\1", cut)


def code(value: object) -> str:
    """A foreign value in a code span, without backticks, which cannot be escaped there."""
    plain = "".join(
        char if char.isprintable() and char != "`" else " " for char in str(value)[:_LONGEST]
    )
    return f"`{' '.join(plain.split()) or ' '}`"
