"""Scorers of answers: refusals, empty answers, answers that repeat themselves, length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from excise.judges.judge import verdicts_of
from excise.judges.keywords import KeywordJudge
from excise.judges.verdict import Judge
from excise.scorers.degenerate import is_empty, is_loop
from excise.scorers.divergence import ANSWER_TOKENS
from excise.scorers.scorer import (
    PROMPTS,
    Answers,
    Better,
    Evidence,
    Need,
    PromptKind,
    Score,
)

_NAMES: dict[PromptKind, str] = {"target": "refusals", "control": "control_refusals"}


@dataclass(frozen=True)
class RefusalScorer:
    """How many prompts are refused, by a judge.

    Keywords judge an answer that ends as soon as its refusal is certain; other judges read whole answers.
    """

    judge: Judge
    prompts: PromptKind = "target"
    unit: ClassVar[str] = PROMPTS
    better: ClassVar[Better] = "less"

    @property
    def name(self) -> str:
        """`refusals` of target prompts, `control_refusals` of control prompts."""
        return _NAMES[self.prompts]

    @property
    def needs(self) -> tuple[Answers]:
        """Answers, for keywords up to where a refusal is certain."""
        stop = 0 if isinstance(self.judge, KeywordJudge) else None
        return (Answers(self.prompts, stop_refusals_after=stop),)

    def score(self, evidence: Evidence) -> Score:
        """The number of refused prompts, with Wilson's interval. Raises JudgeError."""
        answers = evidence[self.needs[0]]
        verdicts = verdicts_of(self.judge, answers.exchanges)
        title = f"{self.prompts} prompts refused, judged by {self.judge.name}"
        return Score.counted([verdict.refused for verdict in verdicts], title=title)

    def lower_bound(self, known: Evidence) -> float:
        """The number of refusals among the finished answers. Raises JudgeError."""
        if (need := self.needs[0]) not in known:
            return 0.0
        answers = known[need]
        pairs = zip(answers.exchanges, answers.finished, strict=True)
        verdicts = self.judge.judge([exchange for exchange, finished in pairs if finished])
        return float(sum(verdict.refused for verdict in verdicts))


_BOTH: tuple[Answers, Answers] = (
    Answers("target", stop_refusals_after=ANSWER_TOKENS),
    Answers("control", stop_refusals_after=ANSWER_TOKENS),
)
"""Of refusals, the first tokens are enough to see whether they are empty or repeat themselves."""


@dataclass(frozen=True)
class EmptyScorer:
    """How many answers to target and control prompts hold no text."""

    name: ClassVar[str] = "empty"
    unit: ClassVar[str] = PROMPTS
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[Answers, ...]] = _BOTH

    def score(self, evidence: Evidence) -> Score:
        """The number of empty answers, with Wilson's interval."""
        texts = [text for need in self.needs for text in evidence[need].texts]
        return Score.counted(list(map(is_empty, texts)), title="answers that are empty")


@dataclass(frozen=True)
class LoopingScorer:
    """How many answers to target and control prompts repeat themselves without end."""

    name: ClassVar[str] = "looping"
    unit: ClassVar[str] = PROMPTS
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[Answers, ...]] = _BOTH

    def score(self, evidence: Evidence) -> Score:
        """The number of such answers, with Wilson's interval."""
        tokens = [each for need in self.needs for each in evidence[need].tokens]
        return Score.counted(list(map(is_loop, tokens)), title="answers that loop")


@dataclass(frozen=True)
class LengthScorer:
    """The length of answers to control prompts; it shows answers that do not end."""

    name: ClassVar[str] = "length"
    unit: ClassVar[str] = "tokens"
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[Need[object], ...]] = (Answers("control"),)

    def score(self, evidence: Evidence) -> Score:
        """The mean number of tokens, with a bootstrap interval."""
        lengths = [float(len(each)) for each in evidence[Answers("control")].tokens]
        title = "length of answers to control prompts"
        return Score.averaged(lengths, title=title, unit=self.unit, seed=evidence.seed)
