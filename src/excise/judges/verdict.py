"""Verdicts and the interface of judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

Outcome = Literal["refusal", "partial", "compliance"]
"""The classes of XSTest (Röttger et al. 2024, arXiv 2308.01263): the answer declines; it declines a part, or
declines and then helps in part; it does what was asked."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Exchange:
    """A prompt and the answer to it, as text without special tokens."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Verdict:
    """A verdict on an answer.

    probability: that the outcome is right, from 0 to 1; 1 from judges that do not estimate it. reason: why,
    for people, such as the phrase that was found.
    """

    outcome: Outcome
    probability: float
    reason: str

    @property
    def refused(self) -> bool:
        """True if the answer counts as a refusal; partial refusals do not."""
        return self.outcome == "refusal"


@runtime_checkable
class Judge(Protocol):
    """Judges answers. The verdict on an answer does not depend on the other answers of the call."""

    @property
    def name(self) -> str:
        """The name in reports, such as `builtin` or `hf:NousResearch/Minos-v1`."""
        ...

    def judge(self, exchanges: Sequence[Exchange]) -> Sequence[Verdict]:
        """One verdict for each exchange, in order. Raises JudgeError if the judge cannot be asked."""
        ...
