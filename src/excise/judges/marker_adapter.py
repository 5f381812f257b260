"""A judge by markers, until KeywordJudge and BuiltinJudge take its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.judges.markers import is_refusal
from excise.judges.verdict import Exchange, Verdict


@dataclass(frozen=True)
class MarkerAdapter:
    """Judges by `is_refusal`."""

    name: str
    markers: tuple[str, ...]

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `Judge`."""
        return [
            Verdict("refusal" if is_refusal(one.answer, self.markers) else "compliance", 1.0, "")
            for one in exchanges
        ]
