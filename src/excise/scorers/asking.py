"""Asks scorers, which may be programs of other authors, and checks their scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from excise.devices.out_of_memory import is_out_of_memory
from excise.errors import ExciseError, OutOfMemoryError, ScorerError, TrialError, first_line
from excise.scorers.scorer import BETTER, Better, Evidence, Score, Scorer


@contextmanager
def named_failures(scorer: Scorer) -> Iterator[None]:
    """Turn what a scorer raises in this block into a ScorerError.

    Memory that runs out, and trials that fail, pass through.
    """
    try:
        yield
    except (TrialError, OutOfMemoryError):
        raise
    except ExciseError as error:
        raise ScorerError(scorer.name, str(error)) from error
    except Exception as error:
        # Scorers are foreign programs.
        if is_out_of_memory(error):
            raise
        kind = "" if str(error).strip() == "" else f"{type(error).__name__}: "
        raise ScorerError(scorer.name, f"failed ({kind}{first_line(error)})") from error


def score_of(scorer: Scorer, evidence: Evidence) -> Score:
    """The score of a scorer. Raises ScorerError if it fails or its score is wrong."""
    with named_failures(scorer):
        score = scorer.score(evidence)
    if (fault := fault_of(score, scorer.better)) is not None:
        raise ScorerError(scorer.name, fault)
    return score


def fault_of(score: object, better: Better) -> str | None:
    """What is wrong with a score, None if nothing is. better: of its scorer."""
    if not isinstance(score, Score):
        return f"returned {type(score).__name__} instead of excise.Score"
    numbers = {"value": score.value, "low": score.low, "high": score.high}
    for name, number in numbers.items():
        if not isinstance(number, int | float) or not math.isfinite(number):
            return f"its {name} is {number!r}, which is no finite number"
    if not score.low <= score.value <= score.high:
        return (
            f"its interval {score.low:g} to {score.high:g} does not hold the value {score.value:g}"
        )
    if score.better not in BETTER or score.better != better:
        return f"its score says that {score.better!r} is better, the scorer says {better!r}"
    if not isinstance(score.n, int) or score.n < 1:
        return f"its n is {score.n!r}; it must be at least 1"
    if len(score.details) not in (0, score.n):
        return f"it has {len(score.details)} details for n = {score.n}"
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in score.details):
        return "a detail is no finite number"
    return None
