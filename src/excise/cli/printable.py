"""Texts of others on a terminal: what a terminal would obey, or reorder, is shown and not sent.

A prompt, an answer, a model's name or a library's message may hold escape sequences, which can move the
cursor, rewrite what stands above, set the title or send input back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_KEPT = "\n\t"
_OTHERS = (
    *range(0x80, 0xA0),
    # Line ends that only some programs know.
    *(0x2028, 0x2029),
    # What makes text read in another order than it is written (Unicode TR 36).
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    # Halves of characters, which no encoding can write.
    *range(0xD800, 0xE000),
)
_SHOWN = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: "\u2421",
    **dict.fromkeys(_OTHERS, "\ufffd"),
}
_ESCAPED = {code: f"\\u{code:04x}" for code in (0x7F, *_OTHERS)}


def printable(text: str) -> str:
    """`text` with a picture in place of each control character but line ends and tabs."""
    return text.translate(_SHOWN)


def printable_json(text: str) -> str:
    """The same value as JSON whose control characters are all escaped; json.dumps leaves some."""
    return text.translate(_ESCAPED)


def ask_person(question: str) -> str:
    """`input`, for a question that may hold names of others' files."""
    return input(printable(question))


class PrintableRecord(logging.LogRecord):
    """A record whose message a terminal can show: libraries log names and keys out of files."""

    def getMessage(self) -> str:  # noqa: N802
        """The message."""
        return printable(super().getMessage())


class PrintableConsole(Console):
    """A console that sends no control characters but its own."""

    def on_broken_pipe(self) -> None:
        """Let the error go on to `main`; called while it is handled. rich would end the process."""
        raise

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is to be written, piece by piece."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
