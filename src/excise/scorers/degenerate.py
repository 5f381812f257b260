"""Answers that say nothing, or that repeat themselves without end."""

from __future__ import annotations

from collections.abc import Sequence

from excise.judges.text import normalise

_LONGEST_PERIOD = 16
_TIMES = 3
_LEAST_TOKENS = 12
"""A repetition shorter than this may well be a list or a rhyme."""


def is_empty(answer: str) -> bool:
    """True if the answer holds only white space and emphasis."""
    return not normalise(answer)


def is_loop(answer: Sequence[int]) -> bool:
    """True if the answer, as token ids, ends in the same 1 to 16 tokens at least three times.

    The repetitions together have at least 12 tokens.
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        needed = max(_TIMES * period, _LEAST_TOKENS)
        if len(answer) < needed:
            break
        tail = answer[len(answer) - needed :]
        if all(tail[place] == tail[place - period] for place in range(period, needed)):
            return True
    return False
