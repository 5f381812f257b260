"""The description of a run, without its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.edits.base import Base
from excise.prompts.splits import Prompts
from excise.search.objective import Objectives
from excise.store.identity import Identity


@dataclass(frozen=True)
class Origin:
    """The origin of a run's model.

    packing: of its weights, in words; None if they are plain. hardware: whether the record names the
    hardware. load_seconds: time of loading.
    """

    base: Base | None
    packing: str | None = None
    hardware: bool = True
    load_seconds: float = 0.0


@dataclass(frozen=True)
class Execution:
    """The conditions in which the model ran; rounding depends on all of them.

    batch_size: prompts in a decoding batch. rows: prompts in a forward pass without decoding. candidates:
    edits scored side by side. device: `devices_digest`. in_blocks: whether weights are prepacked. hardware:
    None if it is not recorded.
    """

    dtype: str
    batch_size: int
    rows: int
    candidates: int
    device: str
    in_blocks: bool
    hardware: Mapping[str, str | int] | None


@dataclass(frozen=True)
class RunDescription:
    """A run without its trials and its chosen edit.

    response_prefix: common beginning of all answers. asked_with: template arguments and decoding. coverage:
    of each layer. uncovered: modules that still write, by layer. refusals: of the original
    model on the target prompts of the search. objectives: of the search. seconds: of each stage.
    """

    identity: Identity
    origin: Origin
    execution: Execution
    response_prefix: str
    asked_with: Mapping[str, object]
    coverage: tuple[float, ...]
    uncovered: Mapping[int, str]
    prompts: Prompts
    refusals: int
    objectives: Objectives
    seconds: Mapping[str, float]

    @property
    def search_prompts(self) -> int:
        """The number of target prompts of the search."""
        return len(self.prompts.target.search)
