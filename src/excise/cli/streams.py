"""Lets the standard streams take any text in their encoding, and JSON always as UTF-8.

The encoding of a console or pipe (cp1252 on Windows, ASCII without a locale) lacks most symbols that excise
prints, and many characters of prompts and answers.
"""

from __future__ import annotations

import codecs
import io
import sys

from excise.system.platform import is_console

READABLE = "excise.readable"
"""Name of the error handler that spells out symbols that an encoding lacks."""

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
    # Symbols for control characters, see `printable`.
    **{chr(0x2400 + code): f"^{chr(0x40 + code)}" for code in range(0x20)},
    "\u2421": "^?", "\ufffd": "?",
}  # fmt: skip
"""ASCII for the symbols that excise prints. A block of a chart stays one column wide."""

_REPLACED = ("strict", "surrogateescape", "backslashreplace")
"""Python's default error handlers of streams."""


def spelled(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: known symbols are spelled out, others become \\x.., \\u.... or \\U....

    Letters are not replaced by similar letters, because that would change names.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(one) or _escaped(one) for one in lacking), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")


def take_any_text() -> None:
    """Prevent UnicodeError on the standard streams. An error handler that the user chose stays."""
    codecs.register_error(READABLE, spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _REPLACED:
            stream.reconfigure(errors=READABLE)
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="replace")


def write_json_in_utf8() -> None:
    """Switch standard output to UTF-8 and \\n line ends. Surrogates become \\u escapes, as JSON has them."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def is_attended() -> bool:
    """True if a person can answer questions: standard input is a terminal."""
    return is_console(sys.stdin)
