"""Measures what scorers need of answers: one decoding for all needs of answers to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.engine.prefill import Tokens
from excise.experiment.runner import Runner
from excise.experiment.scores import PromptPart
from excise.models.chat import Chat
from excise.prompts.sets import PromptSet
from excise.prompts.splits import Prompts
from excise.scorers.refusals import JudgingParameters, Refusals
from excise.scorers.scorer import (
    PROMPT_KINDS,
    AlongAnswers,
    Answers,
    AnswerSet,
    Need,
    PromptKind,
    Scorer,
)


@dataclass(frozen=True)
class Asked:
    """Prompts of one kind, as text and as tokens."""

    texts: tuple[str, ...]
    tokens: tuple[Tokens, ...]

    @classmethod
    def of(cls, prompts: PromptSet, chat: Chat) -> Asked:
        """A prompt set, rendered. Raises ModelError as `Chat.encode` does."""
        texts = tuple(prompt.text for prompt in prompts.prompts)
        return cls(texts, tuple(chat.encode(prompts.prompts)))

    def __len__(self) -> int:
        return len(self.tokens)


PartPrompts = Mapping[PromptKind, Asked]
"""The target and control prompts of one part."""


def prompts_of_part(prompts: Prompts, part: PromptPart, chat: Chat) -> PartPrompts:
    """The prompts of one part, rendered. Raises ModelError as `Chat.encode` does."""
    return {
        "target": Asked.of(getattr(prompts.target, part), chat),
        "control": Asked.of(getattr(prompts.control, part), chat),
    }


@dataclass(frozen=True)
class Reach:
    """How far answers are decoded.

    most: tokens. refusals: tokens after which an answer ends as soon as its refusal is certain.
    """

    most: int
    refusals: int

    @classmethod
    def of(cls, need: Answers, max_new_tokens: int) -> Reach:
        """The reach of a need."""
        most = min(max_new_tokens, max_new_tokens if need.tokens is None else need.tokens)
        stop = most if need.stop_refusals_after is None else need.stop_refusals_after
        return cls(most, min(most, stop))

    def with_other(self, other: Reach) -> Reach:
        """The shortest reach that holds both."""
        return Reach(max(self.most, other.most), max(self.refusals, other.refusals))

    def holds(self, other: Reach) -> bool:
        """True if answers of this reach can be cut to the other."""
        return self.with_other(other) == self

    @property
    def parameters(self) -> JudgingParameters:
        """The reach, for a request."""
        return JudgingParameters(self.most, min_new_tokens=self.refusals)


@dataclass(frozen=True)
class Decoded:
    """Answers of a model to prompts of one kind, with their reach."""

    reach: Reach
    answers: Refusals


def needs_of(scorers: Sequence[Scorer]) -> list[Need[Any]]:
    """What the scorers need, each need once."""
    return list(dict.fromkeys(need for scorer in scorers for need in scorer.needs))


def reaches(needs: Sequence[Need[Any]], max_new_tokens: int) -> dict[PromptKind, Reach]:
    """For each kind of prompts that needs ask for, how far answers have to be decoded."""
    found: dict[PromptKind, Reach] = {}
    for need in needs:
        if isinstance(need, Answers):
            reach = Reach.of(need, max_new_tokens)
            before = found.get(need.prompts)
            found[need.prompts] = reach if before is None else before.with_other(reach)
    return {kind: found[kind] for kind in PROMPT_KINDS if kind in found}


def decode(
    runner: Runner, prompts: PartPrompts, wanted: Mapping[PromptKind, Reach]
) -> dict[PromptKind, Decoded]:
    """Answers of the present model to all prompts that are wanted, side by side."""
    sets = [(prompts[kind].tokens, reach.parameters) for kind, reach in wanted.items()]
    found = runner.answers_to(sets) if sets else []
    return {
        kind: Decoded(reach, answers)
        for (kind, reach), answers in zip(wanted.items(), found, strict=True)
    }


def along(needs: Sequence[Need[Any]]) -> list[Answers]:
    """The original model's answers that comparisons along answers need."""
    return [Answers(need.prompts, need.tokens) for need in needs if isinstance(need, AlongAnswers)]


class OriginalAnswers:
    """The original model's answers to one part of the prompts, each decoded once, when it is needed."""

    def __init__(self, runner: Runner, prompts: PartPrompts) -> None:
        self._runner, self._prompts = runner, prompts
        self._known: dict[PromptKind, Decoded] = {}

    def decode(self, wanted: Mapping[PromptKind, Reach]) -> Mapping[PromptKind, Decoded]:
        """Answers of the wanted reach or farther. The model must be unedited."""
        lacking = {
            kind: reach
            for kind, reach in wanted.items()
            if kind not in self._known or not self._known[kind].reach.holds(reach)
        }
        self._known |= decode(self._runner, self._prompts, lacking)
        return self._known

    def along(self, needs: Sequence[Need[Any]]) -> dict[PromptKind, list[Tokens]]:
        """The answers that comparisons need, as token ids. The model must be unedited."""
        wanted = reaches(along(needs), self._runner.max_new_tokens)
        known = self.decode(wanted)
        return {
            kind: [tokens[: reach.most] for tokens in known[kind].answers.tokens]
            for kind, reach in wanted.items()
        }


def answer_set(runner: Runner, asked: Asked, decoded: Decoded, need: Answers) -> AnswerSet:
    """The answers, cut to what a need asks for: they are those of a decoding for this need alone."""
    reach = Reach.of(need, runner.max_new_tokens)
    answers = decoded.answers
    if reach == decoded.reach:
        return AnswerSet(asked.texts, answers.answers, answers.tokens)
    tokens = tuple(_cut(runner, answer, reach) for answer in answers.tokens)
    texts = tuple(map(runner.chat.answer, tokens))
    return AnswerSet(asked.texts, texts, tokens)


def _cut(runner: Runner, answer: tuple[int, ...], reach: Reach) -> tuple[int, ...]:
    """The beginning of an answer, up to where its refusal is certain."""
    answer = answer[: reach.most]
    if len(answer) <= reach.refusals or not runner.is_certain(answer):
        return answer
    # No continuation takes a certain refusal away, so the place is found by bisection.
    low, high = max(1, reach.refusals), len(answer)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if runner.is_certain(answer[:middle]) else (middle + 1, high)
    return answer[:low]
