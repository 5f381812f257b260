"""Scores from figures of single prompts, with intervals; and the check of scores of other authors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from excise.errors import ScorerError, translated
from excise.scorers.scorer import BETTER, PROMPTS, Better, Evidence, Score, Scorer
from excise.scorers.statistics import Estimate, Share, bootstrap


def counted(found: Sequence[bool], *, title: str, better: Better = "less") -> Score:
    """How many prompts have a property, with Wilson's interval. found: for each prompt whether it has it.

    Raises ValueError without prompts.
    """
    share = Share(sum(found), len(found))
    low, high = share.low * share.of, share.high * share.of
    details = tuple(map(float, found))
    # Rounding may put the end of an interval on the wrong side of the count.
    low, high = min(low, float(share.count)), max(high, float(share.count))
    return Score(float(share.count), low, high, share.of, PROMPTS, better, details, title)


def averaged(
    values: Sequence[float], *, title: str, unit: str, seed: int, better: Better = "less"
) -> Score:
    """The mean of a figure of each prompt, with its bootstrap interval. Raises ValueError without prompts."""
    mean = bootstrap(values, seed)
    details = tuple(map(float, values))
    return Score(mean.mean, mean.low, mean.high, len(values), unit, better, details, title)


def share_of(score: Score) -> Share:
    """A score that counts prompts, as a share."""
    return Share(round(score.value), score.n)


def estimate_of(score: Score) -> Estimate:
    """A score that is a mean, as an estimate."""
    return Estimate(score.value, score.low, score.high)


def text_of(score: Score) -> str:
    """A score with its interval, without the unit."""
    return str(share_of(score) if score.unit == PROMPTS else estimate_of(score))


def score_of(scorer: Scorer, evidence: Evidence) -> Score:
    """The score of a scorer. Raises ScorerError, which names the scorer, if it fails or its score is wrong."""
    # Scorers are foreign programs.
    with translated(ScorerError, f"scorer {scorer.name}: failed", Exception):
        score = scorer.score(evidence)
    if (fault := fault_of(score, scorer.better)) is not None:
        raise ScorerError(f"scorer {scorer.name}: {fault}")
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
        return f"its interval {score.low:g} to {score.high:g} does not hold the value {score.value:g}"
    if score.better not in BETTER or score.better != better:
        return f"its score says that {score.better!r} is better, the scorer says {better!r}"
    if not isinstance(score.n, int) or score.n < 1:
        return f"its n is {score.n!r}; it must be at least 1"
    if len(score.details) not in (0, score.n):
        return f"it has {len(score.details)} details for n = {score.n}"
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in score.details):
        return "a detail is no finite number"
    return None
