"""The standard streams: they take any text, whatever their encoding, and JSON always as UTF-8.

A console or a pipe with an encoding of its own (cp1252 on Windows, ASCII where no locale is set) lacks
most symbols that excise prints, and any number of those in prompts and answers.
"""

from __future__ import annotations

import codecs
import io
import sys

from excise.system.platform import is_console

READABLE = "excise.readable"
"""Name of the error handler that spells out what an encoding lacks."""

SPELLED = {
    "α": "alpha", "γ": "gamma", "δ": "delta", "ε": "epsilon", "μ": "mu", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "Δ": "Delta", "Σ": "Sum", "√": "sqrt ", "∝": "~", "ᵀ": "^T", "⟨": "<", "⟩": ">",
    "◁": "<", "▷": ">",
    "‖": "||", "−": "-", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "·": "|", "…": "...",
    "–": "-", "—": "-", "≡": "==", "∈": "in",
    "‘": "'", "’": "'", "“": '"', "”": '"',
    "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁺": "^+", "⁻": "^-", "₁": "_1", "₂": "_2",
    "│": "|", "─": "-", "└": "+", "━": "=", "╸": "=", "╺": "=",
    "▁": "_", "▂": "_", "▃": ".", "▄": ".", "▅": "=", "▆": "=", "▇": "#", "█": "#",
    # What stands in place of control characters, see `printable`.
    **{chr(0x2400 + code): f"^{chr(0x40 + code)}" for code in range(0x20)},
    "\u2421": "^?", "\ufffd": "?",
}  # fmt: skip
"""Symbols that excise itself prints, in ASCII. Each block of a chart keeps its one column."""

_REPLACED = ("strict", "surrogateescape", "backslashreplace")
"""The handlers that a stream has when nobody chose one."""


def spelled(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: known symbols are spelled out, others become \\x.., \\u.... or \\U....

    Letters are never replaced by others like them, so that no name is shown as another one.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(one) or _escaped(one) for one in lacking), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")


def take_any_text() -> None:
    """Let nothing that is printed, or typed, raise a UnicodeError. A handler that the user chose stays."""
    codecs.register_error(READABLE, spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _REPLACED:
            stream.reconfigure(errors=READABLE)
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="replace")


def write_json_in_utf8() -> None:
    """Have standard output take JSON: UTF-8, lines that end in one character.

    What no encoding has, halves of a surrogate pair, becomes a \\u escape, which JSON reads as the same.
    """
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def is_attended() -> bool:
    """True if somebody can answer questions: standard input is a terminal."""
    return is_console(sys.stdin)
