"""Which candidate the rows of a pass belong to, and which layers of the pass are taken from a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from transformers import DynamicCache

AssignRows = Callable[[Sequence[int]], None]
"""Called before every forward pass with the candidate of each row, as `VirtualEdits.assign` is."""


class LayerCache(Protocol):
    """Stores the output of the first layers on a pass, or replays it; see `excise.engine.cached_layers`."""

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """The scope of one pass over prompts `rows`; None for the pass over their common prefix.

        cache: keys and values that the pass fills. lengths: number of own tokens of each row, right-aligned.
        """


@dataclass(frozen=True)
class Assignment:
    """The candidate that prompts belong to.

    assign_rows: called before every forward pass with the candidate of each row, so that each row meets its
    candidate's edit. cached_layers: what every pass over prompts runs inside of.
    """

    candidate: int = 0
    assign_rows: AssignRows = lambda candidates: None
    cached_layers: LayerCache | None = None

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """See `LayerCache.around`."""
        if self.cached_layers is None:
            return nullcontext()
        return self.cached_layers.around(cache, rows, lengths)

    def before_pass(self, rows: int) -> None:
        """Assign all rows of a pass to the candidate."""
        self.assign_rows([self.candidate] * rows)


ONE_CANDIDATE = Assignment()
"""All rows belong to the model as it is."""
