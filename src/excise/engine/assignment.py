"""What is to be known of rows before they run: whose each is, who is told, what is known of the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from transformers import DynamicCache


def _nobody(candidates: Sequence[int]) -> None:
    return


class Early(Protocol):
    """Keeps what early layers make of prompts, or gives it back; see `excise.engine.early`."""

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """The scope of one pass of these rows, None for the beginning that all of them share.

        cache: the one that the pass fills. lengths: tokens that are each row's own, right-aligned.
        """


@dataclass(frozen=True)
class Assignment:
    """The candidate that each row belongs to.

    candidates: of each row; None if all are of one. announce: called before every pass through the model
    with the candidate of each of its rows, so that whoever edits the model knows which edit a row meets.
    early: what goes around each pass over prompts.
    """

    candidates: tuple[int, ...] | None = None
    announce: Callable[[Sequence[int]], None] = _nobody
    early: Early | None = None

    @property
    def count(self) -> int:
        """The number of candidates."""
        return 1 if self.candidates is None else max(self.candidates, default=0) + 1

    def of(self, rows: Sequence[int]) -> list[int]:
        """The candidate of each of `rows`."""
        if self.candidates is None:
            return [0] * len(rows)
        return [self.candidates[row] for row in rows]

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """See `Early`."""
        return nullcontext() if self.early is None else self.early.around(cache, rows, lengths)

    def before_pass(self, rows: Sequence[int]) -> None:
        """Announce a pass of these rows."""
        self.announce(self.of(rows))


ALONE = Assignment()
"""All rows are of one candidate, and nobody has to be told."""
