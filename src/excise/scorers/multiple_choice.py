"""Multiple-choice questions: how many a model answers rightly, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.likelihoods import choice_likelihoods
from excise.engine.prefill import Tokens
from excise.models.chat import Chat
from excise.prompts.sets import Prompt
from excise.scorers.questions import Question, built_in_questions, read_questions
from excise.scorers.scorer import PROMPTS, Better, EditedModel, Evidence, Score


@dataclass(frozen=True)
class ChoiceResults:
    """A model on questions.

    per_byte: for each question, the mean log-likelihood of each choice, in nats for each byte of its text in
    UTF-8. answers: the right choices.
    """

    per_byte: tuple[tuple[float, ...], ...]
    answers: tuple[int, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        """For each question, whether the right choice has the largest mean log-likelihood."""
        return tuple(margin > 0 for margin in self.margins)

    @property
    def margins(self) -> tuple[float, ...]:
        """For each question, the right choice's mean log-likelihood minus that of the best wrong choice."""
        return tuple(
            found[answer] - max(each for index, each in enumerate(found) if index != answer)
            for found, answer in zip(self.per_byte, self.answers, strict=True)
        )

    @property
    def accuracy(self) -> float:
        """The share of questions that are answered rightly, from 0 to 1."""
        return sum(self.right) / len(self.right)


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as tokens: the prompt of each, and its choices as the beginnings of an answer."""

    questions: tuple[Question, ...]
    prompts: tuple[Tokens, ...]
    choices: tuple[tuple[Tokens, ...], ...]

    @classmethod
    def of(
        cls, chat: Chat, questions: Sequence[Question], system_prompt: str | None = None
    ) -> EncodedQuestions:
        """The questions in the chat template.

        Choices are not listed: with a list the demonstration model has 17 of the 60 built-in questions right,
        which is chance, and 36 without. Raises ModelError if the template or the tokenizer loses text.
        """
        prompts = [Prompt(each.text, system_prompt) for each in questions]
        encoded = chat.encode(prompts)
        texts = [chat.text(prompt) for prompt in prompts]
        choices = tuple(
            tuple(_continuation(chat, text, tokens, choice) for choice in question.choices)
            for question, text, tokens in zip(questions, texts, encoded, strict=True)
        )
        return cls(tuple(questions), tuple(map(tuple, encoded)), choices)

    def results(
        self, model: PreTrainedModel, rows: int, assignment: Assignment = ONE_CANDIDATE
    ) -> ChoiceResults:
        """The model's results. rows: sequences in a forward pass. Raises TrialError for a bad logit.

        A choice counts by its mean log-likelihood for each byte, as lm-evaluation-harness's acc_bytes does
        (its acc_norm divides by characters): totals would favour short choices, and means over tokens depend
        on the tokenizer.
        """
        found = choice_likelihoods(model, self.prompts, self.choices, rows, assignment)
        per_byte = tuple(
            tuple(
                float(likelihood.sum()) / len(choice.encode())
                for likelihood, choice in zip(of_question, question.choices, strict=True)
            )
            for of_question, question in zip(found, self.questions, strict=True)
        )
        return ChoiceResults(per_byte, tuple(each.answer for each in self.questions))


@dataclass(frozen=True)
class MultipleChoice:
    """Multiple-choice questions, asked in the chat template.

    questions: a JSON Lines file, see `read_questions`; the built-in questions without one. figure:
    "accuracy", the number of right answers, or "margin", by how many nats a byte the right choice is likelier
    than the best wrong choice, which shows damage before an answer changes.
    """

    questions: str | None = None
    figure: Literal["accuracy", "margin"] = "accuracy"
    name: ClassVar[str] = "multiple_choice"
    better: ClassVar[Better] = "more"
    needs: ClassVar[tuple[EditedModel]] = (EditedModel(),)

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown figure, PromptError for a file that cannot be read."""
        if self.figure not in ("accuracy", "margin"):
            raise ValueError(f"figure {self.figure!r}: give accuracy or margin")
        _ = self._asked

    @property
    def unit(self) -> str:
        """Right answers are counted; margins are in nats for each byte."""
        return PROMPTS if self.figure == "accuracy" else "nats/byte"

    def score(self, evidence: Evidence) -> Score:
        """The number of right answers, with Wilson's interval, or the mean margin, with a bootstrap one."""
        used = evidence[self.needs[0]]
        results = EncodedQuestions.of(used.chat, self._asked).results(used.model, used.rows)
        if self.figure == "accuracy":
            title = "questions answered rightly"
            return Score.counted(results.right, title=title, better=self.better)
        return Score.averaged(
            results.margins,
            title="margin of the right choice",
            unit=self.unit,
            seed=evidence.seed,
            better=self.better,
        )

    @cached_property
    def _asked(self) -> tuple[Question, ...]:
        return built_in_questions() if self.questions is None else read_questions(self.questions)


def _continuation(chat: Chat, text: str, tokens: Sequence[int], choice: str) -> Tokens:
    """The tokens of a choice after the rendered prompt, as the tokenizer divides the whole text.

    By itself if the prompt's last token would change.
    """
    (whole,) = chat.tokens([text + choice])
    if whole[: len(tokens)] == list(tokens) and len(whole) > len(tokens):
        return tuple(whole[len(tokens) :])
    return tuple(chat.tokens([choice])[0])
