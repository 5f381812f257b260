"""The scorers that come with excise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from excise.judges.verdict import Judge
from excise.scorers.answers import EmptyScorer, LengthScorer, LoopingScorer, RefusalScorer
from excise.scorers.damage import AnswerKL, FirstTokenKL
from excise.scorers.scorer import Scorer

BUILT_IN: Mapping[str, Callable[[Judge], Scorer]] = {
    "refusals": RefusalScorer,
    "control_refusals": lambda judge: RefusalScorer(judge, "control"),
    "empty": lambda judge: EmptyScorer(),
    "looping": lambda judge: LoopingScorer(),
    "length": lambda judge: LengthScorer(),
    "kl": lambda judge: FirstTokenKL(),
    "answer_kl": lambda judge: AnswerKL(),
}
"""Name to a function that makes the scorer. The judge decides what a refusal is."""
SEARCHED = ("refusals", "kl")
"""The scorers that a search minimises if nothing else was asked for."""
REPORTED = ("refusals", "control_refusals", "empty", "looping", "kl", "answer_kl")
"""The scorers of every report on held-out prompts."""
