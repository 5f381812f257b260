"""Rows of several candidates in one batch: which row is whose, and who is told before a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _nobody(candidates: Sequence[int]) -> None:
    return


@dataclass(frozen=True)
class Assignment:
    """The candidate that each row belongs to.

    candidates: of each row; None if all are of one. announce: called before every pass through the model
    with the candidate of each of its rows, so that whoever edits the model knows which edit a row meets.
    """

    candidates: tuple[int, ...] | None = None
    announce: Callable[[Sequence[int]], None] = _nobody

    @property
    def count(self) -> int:
        """The number of candidates."""
        return 1 if self.candidates is None else max(self.candidates, default=0) + 1

    def of(self, rows: Sequence[int]) -> list[int]:
        """The candidate of each of `rows`."""
        if self.candidates is None:
            return [0] * len(rows)
        return [self.candidates[row] for row in rows]

    def before_pass(self, rows: Sequence[int]) -> None:
        """Announce a pass of these rows."""
        self.announce(self.of(rows))


ALONE = Assignment()
"""All rows are of one candidate, and nobody has to be told."""
