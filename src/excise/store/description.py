"""What is written of a run beside its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.edits.base import Base
from excise.prompts.splits import Prompts
from excise.store.identity import Identity


@dataclass(frozen=True)
class Origin:
    """Where a run's model is from.

    packing: how its weights are packed, in words; None if they are plain. hardware: whether the record may
    name the hardware. load_seconds: what loading took.
    """

    base: Base | None
    packing: str | None = None
    hardware: bool = True
    load_seconds: float = 0.0


@dataclass(frozen=True)
class Execution:
    """How the model ran; rounding depends on all of it.

    batch_size: prompts that decode at a time. rows: prompts of a forward pass without decoding. candidates:
    edits scored side by side. device: `devices_digest`. in_blocks: whether weights lie as the processor's
    products read them. hardware: None where it is not to be recorded.
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
    """Everything of a run but its trials and its chosen edit.

    response_prefix: what every answer begins with. asked_with: how prompts were put and answers chosen.
    coverage: of each layer. uncovered: the modules that still write, by layer. refusals: of the original
    model on the target prompts of the search. seconds: of each stage.
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
    seconds: Mapping[str, float]

    @property
    def search_prompts(self) -> int:
        """The number of target prompts of the search."""
        return len(self.prompts.target.search)
