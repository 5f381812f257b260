"""Split expressions: "train", "train[:400]", "[10:20]", "[:50%]", "[-100:]"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from excise.errors import PromptError

_EXPRESSION = re.compile(
    r"(?P<name>\w+(\.\w+)*)?"
    r"(?P<slice>\[\s*(?P<start>-?\d+%?)?\s*:\s*(?P<stop>-?\d+%?)?\s*\])?"
)


@dataclass(frozen=True)
class Split:
    """A part of a data set: the split's name, and which of its rows."""

    expression: str
    name: str | None = None
    start: str | None = None
    stop: str | None = None

    def take(self, rows: Sequence[object], where: str) -> list[object]:
        """The rows of the slice; all rows without a slice.

        Raises PromptError if the slice is empty or goes beyond the end. It is never shortened silently,
        because results on fewer prompts do not compare.
        """
        if self.start is None and self.stop is None:
            return list(rows)
        count = len(rows)
        start = _position(self.start, count, 0)
        stop = _position(self.stop, count, count)
        if min(start, stop) < 0 or max(start, stop) > count:
            reach = max(start, stop, count - min(start, stop))
            asked = f"{reach} prompts" if start <= 0 else f"prompts up to {reach}"
            raise PromptError(
                f"{where}: {self.expression} asks for {asked}, the split has {count}; ask for fewer"
            )
        if start >= stop:
            raise PromptError(
                f"{where}: {self.expression} names no prompt, the split has {count}; "
                "the first number must be less than the second"
            )
        return list(rows[start:stop])


def parse_split(expression: str | None, where: str) -> Split:
    """Parse a split expression; None is the whole data set. Raises PromptError."""
    if not expression:
        return Split("")
    found = _EXPRESSION.fullmatch(expression.strip())
    if found is None:
        raise PromptError(
            f"{where}: {expression} is not a split; write for example train, train[:400], [10:20] "
            "or [:50%]"
        )
    return Split(expression, found["name"], found["start"], found["stop"])


def _position(text: str | None, count: int, default: int) -> int:
    """Row number of an end of a slice; percentages are rounded as in datasets."""
    if text is None:
        return default
    number = int(text.removesuffix("%"))
    if text.endswith("%"):
        number = round(number * count / 100)
    return number + count if text.startswith("-") else number
