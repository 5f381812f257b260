"""Benchmarks before and after an edit, with a paired test of each difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from excise.app.before_after import Subject, measured
from excise.benchmarks.benchmark import Benchmarks
from excise.benchmarks.options import BenchmarkOptions
from excise.benchmarks.score import BenchmarkScore
from excise.edits.edit import Edit
from excise.events import Emit, StageStarted
from excise.models.load import LoadedModel
from excise.scorers.statistics import SIGNIFICANT


@dataclass(frozen=True)
class BenchmarkRow:
    """One metric of a task. after: None if there is no edited version. p_value: of the paired test."""

    before: BenchmarkScore
    after: BenchmarkScore | None = None
    p_value: float | None = None

    @property
    def difference(self) -> float | None:
        """After minus before."""
        return None if self.after is None else self.after.value - self.before.value

    @property
    def significant(self) -> bool:
        """True if the p-value is below 5 %."""
        return self.p_value is not None and self.p_value < SIGNIFICANT

    def as_json(self) -> dict[str, Any]:
        """The row without the values of the documents."""
        after = self.after
        return {
            "task": self.before.task,
            "metric": self.before.metric,
            "filter": self.before.filter,
            "documents": self.before.documents,
            "few_shot": self.before.few_shot,
            "higher_is_better": self.before.higher_is_better,
            "before": self.before.value,
            "before_standard_error": self.before.standard_error,
            "after": None if after is None else after.value,
            "after_standard_error": None if after is None else after.standard_error,
            "difference": self.difference,
            "p_value": self.p_value,
            "significant": self.significant,
        }


def benchmark_rows(
    subject: Subject, names: Sequence[str], options: BenchmarkOptions, emit: Emit
) -> list[BenchmarkRow]:
    """Score the original and its edited version. Raises BenchmarkError, ModelError."""
    emit(StageStarted("benchmarks", "Loading the benchmarks"))
    benchmarks = Benchmarks(names, options)

    def before(loaded: LoadedModel) -> tuple[BenchmarkScore, ...]:
        emit(StageStarted("benchmarks", f"Asking {subject.against}"))
        return benchmarks.scores(loaded, emit=emit)

    def after(
        loaded: LoadedModel, edit: Edit | None, found: tuple[BenchmarkScore, ...]
    ) -> list[BenchmarkRow]:
        if not subject.is_pair:
            return [BenchmarkRow(score) for score in found]
        emit(StageStarted("benchmarks", f"Asking {subject.name}"))
        others = benchmarks.scores(loaded, edit, emit)
        return [
            BenchmarkRow(one, other, one.p_value(other))
            for one, other in zip(found, others, strict=True)
        ]

    return measured(subject, emit, before, after)
