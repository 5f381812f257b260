"""How benchmarks are asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from excise.errors import SettingsError


@dataclass(frozen=True)
class BenchmarkOptions:
    """How benchmarks are asked.

    limit: number of documents of each task, the first ones; None for all. tasks: folder of task files of your
    own, whose Python functions run. plain_text: give documents as plain text, without the chat template.
    system_prompt: goes before every document. batch_size: sequences in a forward
    pass; 0 for 8 on a CPU and 32 elsewhere, halved if memory runs out. seed: of answers that are sampled.
    Raises SettingsError for a number that is too small.
    """

    limit: int | None = None
    tasks: str | Path | None = None
    plain_text: bool = False
    system_prompt: str | None = None
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for what, given, least in (
            ("benchmark limit", self.limit, 1),
            ("batch size", self.batch_size, 0),
        ):
            if given is not None and given < least:
                raise SettingsError(f"{what} {given}: must be at least {least}")
