"""Scores from the results of lm-evaluation-harness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean

from excise.benchmarks.score import BenchmarkScore

_RESAMPLES = 100
_OF_LIKELIHOOD = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics whose documents contribute a log-likelihood and a length. Lengths are the same for both models."""
_ONLY_FILTER = "none"
"""lm-evaluation-harness's name for the filter that changes nothing."""

Key = tuple[str, str]


def scores_of(results: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[BenchmarkScore]:
    """The scores of each group and of each task, groups before their tasks.

    results: what `lm_eval.evaluate` returns, with samples. loaded: what `TaskManager.load` returns.
    """
    of_tasks = {
        (score.task, score.metric, score.filter): score
        for name, task in loaded["tasks"].items()
        for score in _of_task(name, task, results)
    }
    groups = loaded.get("groups", {})
    of_groups = [score for name in groups for score in _of_group(groups[name], results, of_tasks)]
    return [*of_groups, *of_tasks.values()]


def _of_task(name: str, task: Any, results: Mapping[str, Any]) -> Iterator[BenchmarkScore]:
    contributions: dict[Key, list[Any]] = {}
    for sample in results["samples"][name]:
        for metric in sample["metrics"]:
            contributions.setdefault((metric, sample["filter"]), []).append(sample[metric])
    for (metric, chosen), found in contributions.items():
        value = results["results"][name].get(f"{metric},{chosen}")
        if not _is_number(value):
            continue
        numbers = [_number(metric, each) for each in found]
        yield BenchmarkScore(
            task=name,
            metric=metric,
            filter="" if chosen == _ONLY_FILTER else chosen,
            value=float(value),
            standard_error=_standard_error(found, task.aggregation().get(metric, mean)),
            values=tuple(each for each in numbers if each is not None)
            if None not in numbers
            else (),
            documents=len(found),
            few_shot=int(results["n-shot"].get(name) or 0),
            higher_is_better=results["higher_is_better"].get(name, {}).get(metric),
        )


def _of_group(
    group: Any, results: Mapping[str, Any], of_tasks: Mapping[tuple[str, str, str], BenchmarkScore]
) -> Iterator[BenchmarkScore]:
    """The scores that lm-evaluation-harness averages over the tasks of a group."""
    names = [task.task_name for task in group.get_all_tasks()]
    weighting = {each.metric: each.weight_by_size for each in group.aggregate_metric_list or ()}
    for key, value in results["results"].get(group.name, {}).items():
        metric, separator, chosen = key.partition(",")
        if not separator or metric not in weighting or not _is_number(value):
            continue
        filtered = "" if chosen == _ONLY_FILTER else chosen
        parts = [of_tasks[key] for name in names if (key := (name, metric, filtered)) in of_tasks]
        total = sum(part.documents for part in parts)
        by_size = weighting[metric]
        # Each document's weight in the group's mean, times the number of documents.
        weights = [1.0 if by_size else total / (len(parts) * part.documents) for part in parts]
        errors = [part.standard_error for part in parts]
        shares = [w * part.documents / total for w, part in zip(weights, parts, strict=True)]
        error = (
            None
            if None in errors
            else math.hypot(*(s * (e or 0.0) for s, e in zip(shares, errors, strict=True)))
        )
        paired = all(part.values for part in parts)
        yield BenchmarkScore(
            task=group.name,
            metric=metric,
            filter=filtered,
            value=float(value),
            standard_error=error,
            values=tuple(
                weight * each
                for weight, part in zip(weights, parts, strict=True)
                for each in part.values
            )
            if paired
            else (),
            documents=total,
            few_shot=max(part.few_shot for part in parts),
            higher_is_better=parts[0].higher_is_better,
        )


def _standard_error(
    found: Sequence[Any], aggregate: Callable[[Sequence[Any]], Any]
) -> float | None:
    """The standard error of `aggregate(found)`: of a mean from its formula, else by the bootstrap.

    Not lm-evaluation-harness's own, which starts a process for each core and prints. None if it cannot be
    computed: for fewer than two documents, or if the metric is no number.
    """
    count = len(found)
    if count < 2:
        return None
    if aggregate is mean and all(map(_is_number, found)):
        return float(np.std(np.asarray(found, dtype=np.float64), ddof=1) / math.sqrt(count))
    picks = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    drawn = [aggregate([found[index] for index in row]) for row in picks.tolist()]
    if not all(map(_is_number, drawn)):
        return None
    return float(np.std(np.asarray(drawn, dtype=np.float64), ddof=1))


def _number(metric: str, value: Any) -> float | None:
    """What a document contributes to a metric, as one number; None if it is no number.

    Documents with several answers (ifeval) contribute the sum of their verdicts: their number is the same for
    both models.
    """
    if _is_number(value):
        return float(value)
    if metric in _OF_LIKELIHOOD:
        return float(value[0])
    if isinstance(value, list) and value and all(map(_is_number, value)):
        return float(sum(value))
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)
