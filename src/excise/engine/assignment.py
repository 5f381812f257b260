"""Which candidate the rows of a pass belong to, and which layers of the pass are taken from a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from transformers import DynamicCache

AssignRows = Callable[[Sequence[int]], None]
"""Called before every forward pass with the candidate of each row, as `VirtualEdits.assign` is."""


LayerCache = Callable[
    [DynamicCache, Sequence[int] | None, Sequence[int]], AbstractContextManager[None]
]
"""The scope of one pass: stores the output of its first layers, or replays it; see `CachedLayers`.

Called with the keys and values that the pass fills, the prompts that run (None for the pass over their common
prefix), and the number of own tokens of each row, right-aligned.
"""


@dataclass(frozen=True)
class Assignment:
    """The candidate that prompts belong to.

    assign_rows: called before every forward pass with the candidate of each row, so that each row meets its
    candidate's edit. cached_layers: a context around every pass over prompts, which stores or replays layers.
    """

    candidate: int = 0
    assign_rows: AssignRows = lambda candidates: None
    cached_layers: LayerCache | None = None

    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> AbstractContextManager[None]:
        """The scope of a pass, see `LayerCache`."""
        return self.cached_layers(cache, rows, lengths) if self.cached_layers else nullcontext()

    def before_pass(self, rows: int) -> None:
        """Assign all rows of a pass to the candidate."""
        self.assign_rows([self.candidate] * rows)


ONE_CANDIDATE = Assignment()
"""All rows belong to the unedited model."""
