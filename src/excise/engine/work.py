"""What a model was run on: a record for events and tables, without the machinery that counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """What a model was run on over some time.

    pass_tokens: tokens in forward passes over several tokens a row; step_tokens: in passes over one token a
    row, decoding steps for the most part. padding: columns that ran beside them and belong to no token,
    where the mask tells. passes, steps: their numbers. operations: floating-point operations that these
    tokens need (see `engine.costs`). early_rows: answers that were left before their end. seconds: wall
    time by stage.
    """

    pass_tokens: int = 0
    step_tokens: int = 0
    padding: int = 0
    passes: int = 0
    steps: int = 0
    operations: int = 0
    early_rows: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.pass_tokens + self.step_tokens

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())

    def __add__(self, other: Work) -> Work:
        stages = dict.fromkeys([*self.seconds, *other.seconds])
        return Work(
            self.pass_tokens + other.pass_tokens,
            self.step_tokens + other.step_tokens,
            self.padding + other.padding,
            self.passes + other.passes,
            self.steps + other.steps,
            self.operations + other.operations,
            self.early_rows + other.early_rows,
            {name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in stages},
        )
