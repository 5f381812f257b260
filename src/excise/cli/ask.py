"""Questions to the user, each answered by a typed line."""

from __future__ import annotations

from collections.abc import Callable

Ask = Callable[[str], str]
"""Shows a question and returns the typed line. Raises EOFError at the end of the input."""


def answer_to(ask: Ask, question: str) -> str:
    """The typed line without surrounding spaces; empty, the default answer, at the end of the input."""
    try:
        return ask(question).strip()
    except EOFError:
        return ""
