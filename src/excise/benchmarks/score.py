"""The score of a model on a benchmark, and the paired test of two scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from excise.scorers.statistics import mcnemar, sign_flips


@dataclass(frozen=True)
class BenchmarkScore:
    """One metric of a task, or of a group of tasks.

    filter: how answers were read, empty if the task has one way only. value: the metric. standard_error: None
    if the metric has none. values: what each document contributes, in the order of the documents; empty if
    a document's contribution is no number. documents: how many were asked. few_shot: examples before each
    question. higher_is_better: None if the task does not say.
    """

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None
    values: tuple[float, ...]
    documents: int
    few_shot: int
    higher_is_better: bool | None = True

    @property
    def title(self) -> str:
        """The metric's name, with its filter."""
        return f"{self.metric} ({self.filter})" if self.filter else self.metric

    def p_value(self, other: BenchmarkScore, seed: int = 0) -> float | None:
        """Two-sided p-value of the difference from `other`, document by document.

        McNemar's exact test if documents are right or wrong, else a test by random signs. None if the
        documents have no values to compare. Raises ValueError for another task or metric.
        """
        if (self.task, self.metric, self.filter) != (other.task, other.metric, other.filter):
            raise ValueError(f"{self.task} {self.title} beside {other.task} {other.title}")
        both = (*self.values, *other.values)
        if not both or len(self.values) != len(other.values) or not all(map(math.isfinite, both)):
            return None
        if set(both) <= {0.0, 1.0}:
            return mcnemar(
                [bool(each) for each in self.values], [bool(each) for each in other.values]
            )
        return sign_flips(self.values, other.values, seed)
