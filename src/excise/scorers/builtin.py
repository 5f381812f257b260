"""The scorers that come with excise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from excise.judges.verdict import Judge
from excise.scorers.answers import EmptyScorer, LengthScorer, LoopingScorer, RefusalScorer
from excise.scorers.damage import AnswerKL, FirstTokenKL
from excise.scorers.multiple_choice import MultipleChoice
from excise.scorers.perplexity import Perplexity
from excise.scorers.scorer import Scorer


def _refusals(judge: Judge) -> Scorer:
    return RefusalScorer(judge, "target")


def _control_refusals(judge: Judge) -> Scorer:
    return RefusalScorer(judge, "control")


def _without_judge(make: Callable[..., Scorer]) -> Callable[..., Scorer]:
    return lambda judge, **settings: make(**settings)


BUILT_IN: Mapping[str, Callable[..., Scorer]] = {
    "refusals": _refusals,
    "control_refusals": _control_refusals,
    "empty": _without_judge(EmptyScorer),
    "looping": _without_judge(LoopingScorer),
    "length": _without_judge(LengthScorer),
    "kl": _without_judge(FirstTokenKL),
    "answer_kl": _without_judge(AnswerKL),
    "multiple_choice": _without_judge(MultipleChoice),
    "perplexity": _without_judge(Perplexity),
}
"""Name to a function that makes the scorer, of a judge, which decides what a refusal is, and of settings."""
SEARCHED = ("refusals", "kl")
"""The scorers that a search minimises if nothing else was asked for."""
REPORTED = ("refusals", "control_refusals", "empty", "looping", "kl", "answer_kl")
"""The scorers of every report on held-out prompts."""
