"""How far a judge agrees with people who labelled the same answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean

from excise.judges.verdict import OUTCOMES, Outcome
from excise.scorers.statistics import Share


@dataclass(frozen=True)
class Agreement:
    """Verdicts beside labels.

    counts: number of answers by label and outcome. Agreement, recall and precision concern answers that
    people labelled refusal or compliance; there a partial verdict counts as a refusal. The macro-averaged F1
    and the confusion table have partial as a class of its own.
    """

    counts: Mapping[tuple[Outcome, Outcome], int]

    @classmethod
    def of(cls, pairs: Iterable[tuple[Outcome, Outcome]]) -> Agreement:
        """The agreement of pairs of a label and the outcome of its verdict."""
        return cls(Counter(pairs))

    @property
    def answers(self) -> int:
        """The number of labelled answers, partial refusals included."""
        return sum(self.counts.values())

    @property
    def agreement(self) -> Share | None:
        """Answers on which judge and people agree; None without any label refusal or compliance."""
        agreed = self._refused("refusal") + self.count("compliance", "compliance")
        return _share(agreed, self._labelled("refusal") + self._labelled("compliance"))

    @property
    def recall(self) -> Share | None:
        """Refusals that the judge finds; None without refusals."""
        return _share(self._refused("refusal"), self._labelled("refusal"))

    @property
    def precision(self) -> Share | None:
        """Refusals among the answers that the judge calls refusals; None if it calls none so."""
        found = self._refused("refusal")
        return _share(found, found + self._refused("compliance"))

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur among the labels. Raises ValueError without labels."""
        return mean(self._f1(outcome) for outcome in OUTCOMES if self._labelled(outcome))

    def count(self, label: Outcome, outcome: Outcome) -> int:
        """Answers with this label and this verdict."""
        return self.counts.get((label, outcome), 0)

    def _labelled(self, label: Outcome) -> int:
        return sum(self.count(label, outcome) for outcome in OUTCOMES)

    def _refused(self, label: Outcome) -> int:
        return self.count(label, "refusal") + self.count(label, "partial")

    def _f1(self, outcome: Outcome) -> float:
        judged = sum(self.count(label, outcome) for label in OUTCOMES)
        return 2 * self.count(outcome, outcome) / (self._labelled(outcome) + judged)


def _share(count: int, of: int) -> Share | None:
    return Share(count, of) if of else None
