"""The loaded model with what it takes to ask it questions: chat, markers, number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.batch_size import with_halving
from excise.engine.prefill import Tokens, first_token_log_probabilities
from excise.model.chat import Chat
from excise.prompts.sets import PromptSet
from excise.run.events import BatchReduced, Tell
from excise.scores.divergence import kl_divergence
from excise.scores.openings import Opening, openings_of
from excise.scores.refusals import Refusals, count_refusals

Result = TypeVar("Result")


class Runner:
    """Asks a model, in batches that shrink when memory runs out and stay as small from then on.

    slots: rows that decode at a time, found by timing. rows: rows of a forward pass without decoding, the
    same on every run, because rounding depends on it and the search follows every digit of KL.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        *,
        markers: Sequence[str],
        max_new_tokens: int,
        slots: int,
        tell: Tell,
    ) -> None:
        self.model, self.chat, self.slots, self.rows = model, chat, slots, 32
        self._markers, self._max_new_tokens, self._tell = tuple(markers), max_new_tokens, tell

    def in_rows(self, work: Callable[[int], Result]) -> Result:
        """`work(rows)` for forward passes, with fewer rows for good if memory runs out."""
        result, self.rows = with_halving(self.rows, work, self._tell_halved)
        return result

    def _tell_halved(self, size: int) -> None:
        self._tell(BatchReduced(size))

    def log_probabilities(self, prompts: Sequence[Tokens]) -> Tensor:
        """Log-probabilities of the first answer token: [prompt, vocabulary], float32."""
        return self.in_rows(lambda rows: first_token_log_probabilities(self.model, prompts, rows))

    def refusals(self, prompts: Sequence[Tokens], *, whole_answers: bool = False) -> Refusals:
        """Answers to `prompts`, judged."""

        def count(slots: int) -> Refusals:
            return count_refusals(
                self.model,
                self.chat,
                prompts,
                markers=self._markers,
                max_new_tokens=self._max_new_tokens,
                slots=slots,
                whole_answers=whole_answers,
            )

        result, self.slots = with_halving(self.slots, count, self._tell_halved)
        return result


@dataclass(frozen=True)
class Part:
    """Target and control prompts of one part, as tokens, and what the original model makes of them.

    original: log-probabilities of the first answer token on control prompts [prompt, vocabulary].
    answered: the original model's answers to target prompts.
    """

    target: tuple[Tokens, ...]
    control: tuple[Tokens, ...]
    original: Tensor
    answered: Refusals

    @property
    def refusals(self) -> int:
        """How many target prompts the original model refuses."""
        return self.answered.count

    @property
    def openings(self) -> list[Opening]:
        """How its refusals begin."""
        return openings_of(self.answered.tokens, self.answered.refused)

    def divergences(self, runner: Runner) -> list[float]:
        """KL(original ‖ model as it is now) of the first answer token, for each control prompt, nats."""
        edited = runner.log_probabilities(self.control)
        return [float(value) for value in kl_divergence(self.original, edited)]

    def divergence(self, runner: Runner) -> float:
        """Their mean."""
        edited = runner.log_probabilities(self.control)
        return float(kl_divergence(self.original, edited).mean())


def measure_original(runner: Runner, target: PromptSet, control: PromptSet) -> Part:
    """Ask the unedited model."""
    target_tokens = tuple(runner.chat.encode(target.prompts))
    control_tokens = tuple(runner.chat.encode(control.prompts))
    return Part(
        target=target_tokens,
        control=control_tokens,
        original=runner.log_probabilities(control_tokens),
        answered=runner.refusals(target_tokens),
    )
