"""Makes foreign texts safe for a terminal: visible symbols replace control characters.

A prompt, an answer, a model's name or a library's message may contain escape sequences. They can move the
cursor, rewrite earlier lines, set the title or send input.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_KEPT = "\n\t"
_OTHERS = (
    *range(0x80, 0xA0),
    # Line ends that only some programs treat as such.
    *(0x2028, 0x2029),
    # Characters that change the order in which text is displayed (Unicode TR 36).
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    # Surrogates, which no encoding can write.
    *range(0xD800, 0xE000),
)
_SHOWN = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: "\u2421",
    **dict.fromkeys(_OTHERS, "\ufffd"),
}
_ESCAPED = {code: f"\\u{code:04x}" for code in (0x7F, *_OTHERS)}


def printable(text: str) -> str:
    """`text` with a visible symbol for each control character except line ends and tabs."""
    return text.translate(_SHOWN)


def printable_json(text: str) -> str:
    """The JSON text with all control characters escaped; json.dumps leaves some unescaped."""
    return text.translate(_ESCAPED)


def ask_person(question: str) -> str:
    """`input`, for a question that may contain foreign file names."""
    return input(printable(question))


class PrintableRecord(logging.LogRecord):
    """A log record with a printable message: libraries log names and keys from files."""

    def getMessage(self) -> str:  # noqa: N802
        """The message."""
        return printable(super().getMessage())


class PrintableConsole(Console):
    """A console that writes only its own control characters."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich is handling, for `main`; rich itself would end the process."""
        raise

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of output."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
