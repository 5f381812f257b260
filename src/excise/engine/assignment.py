"""What is to be known of rows before they run: whose they are, who is told, what is known of the pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from transformers import DynamicCache

AssignRows = Callable[[Sequence[int]], None]
"""Told before every pass which candidate each of its rows belongs to."""


def no_edits(candidates: Sequence[int]) -> None:
    """The `AssignRows` of those who ask one candidate alone."""
    return


class LayerCache(Protocol):
    """Keeps what early layers make of prompts, or gives it back; see `excise.engine.cached_layers`."""

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """The scope of one pass of these rows, None for the beginning that all of them share.

        cache: the one that the pass fills. lengths: tokens that are each row's own, right-aligned.
        """


@dataclass(frozen=True)
class Assignment:
    """The candidate that prompts belong to.

    assign_rows: called before every pass through the model with the candidate of each of its rows, so that
    whoever edits the model knows which edit a row meets. cached_layers: what goes around each pass over prompts.
    """

    candidate: int = 0
    assign_rows: AssignRows = no_edits
    cached_layers: LayerCache | None = None

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """See `LayerCache`."""
        return (
            nullcontext()
            if self.cached_layers is None
            else self.cached_layers.around(cache, rows, lengths)
        )

    def before_pass(self, rows: int) -> None:
        """AssignRows a pass of so many rows."""
        self.assign_rows([self.candidate] * rows)


ONE_CANDIDATE = Assignment()
"""There is one candidate, and nobody has to be told."""
