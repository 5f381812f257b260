"""Scorers of damage: KL divergence of the first answer token, and along the original model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import ClassVar

import torch

from excise.scorers.divergence import ANSWER_TOKENS, AnswerTokens, kl_divergence
from excise.scorers.scorer import AlongAnswers, Better, Evidence, FirstToken, Score

_UNIT = "nats"


@dataclass(frozen=True)
class FirstTokenKL:
    """KL(original ‖ edited) of the first answer token, mean over control prompts."""

    name: ClassVar[str] = "kl"
    unit: ClassVar[str] = _UNIT
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[FirstToken]] = (FirstToken(kl_divergence),)

    def score(self, evidence: Evidence) -> Score:
        """The mean, with a bootstrap interval."""
        found = evidence[self.needs[0]]
        return Score.averaged(
            found, title="KL, first answer token", unit=self.unit, seed=evidence.seed
        )

    def lower_bound(self, known: Evidence) -> float:
        """The mean, which is exact once it is known; KL is never less than 0."""
        need = self.needs[0]
        return mean(known[need]) if need in known else 0.0


@dataclass(frozen=True)
class AnswerKL:
    """KL(original ‖ edited) along the original model's answers to control prompts.

    The mean over the tokens of an answer, then over prompts. tokens: number of first tokens of each answer.
    """

    tokens: int = ANSWER_TOKENS
    name: ClassVar[str] = "answer_kl"
    unit: ClassVar[str] = _UNIT
    better: ClassVar[Better] = "less"

    def __post_init__(self) -> None:
        """Raises ValueError for a wrong number of tokens."""
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"tokens {self.tokens!r}: give a whole number of at least 1")

    @property
    def needs(self) -> tuple[AlongAnswers]:
        """Distributions along the answers."""
        return (AlongAnswers(kl_divergence, tokens=self.tokens),)

    def score(self, evidence: Evidence) -> Score:
        """The mean, with a bootstrap interval."""
        along = evidence[self.needs[0]]
        title = AnswerTokens.of(along).title
        return Score.averaged(self._means(along), title=title, unit=self.unit, seed=evidence.seed)

    def lower_bound(self, known: Evidence) -> float:
        """The mean, which is exact once it is known; KL is never less than 0."""
        need = self.needs[0]
        return mean(self._means(known[need])) if need in known else 0.0

    @staticmethod
    def _means(along: tuple[tuple[float, ...], ...]) -> list[float]:
        return [float(torch.tensor(answer, dtype=torch.float64).mean()) for answer in along]
