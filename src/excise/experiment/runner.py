"""The loaded model with what it takes to ask it questions: chat, markers, number of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.assignment import ALONE, Assignment, Early
from excise.engine.batch_size import with_halving
from excise.engine.early import EarlyPart
from excise.engine.prefill import Tokens
from excise.events import Emit
from excise.experiment.events import BatchReduced
from excise.experiment.first_tokens import divergences, log_probabilities
from excise.models.chat import Chat
from excise.prompts.sets import PromptSet
from excise.scorers.refusals import Hearing, Judging, Refusals, judge
from excise.scorers.watch import Watch

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
        emit: Emit,
    ) -> None:
        self.model, self.chat, self.slots, self.rows = model, chat, slots, 32
        self._markers, self._max_new_tokens, self._emit = tuple(markers), max_new_tokens, emit
        self._watch = Watch(chat.decode, self._markers)

    def in_rows(self, work: Callable[[int], Result]) -> Result:
        """`work(rows)` for forward passes, with fewer rows for good if memory runs out."""
        result, self.rows = with_halving(self.rows, work, self.emit_halved)
        return result

    def emit_halved(self, size: int) -> None:
        """Say that memory ran out, and how many rows run at a time from now on."""
        self._emit(BatchReduced(size))

    def log_probabilities(self, prompts: Sequence[Tokens], early: Early | None = None) -> Tensor:
        """Of the first answer token: [prompt, vocabulary], float32; see `first_tokens`."""
        assignment = Assignment(early=early)
        return self.in_rows(lambda rows: log_probabilities(self.model, prompts, rows, assignment))

    def divergences(
        self,
        prompts: Sequence[Tokens],
        original: Tensor,
        assignment: Assignment = ALONE,
    ) -> list[float]:
        """KL(original ‖ model) of the first answer token for each prompt, nats.

        original: `log_probabilities` of the original model. Raises TrialError if a logit is not a number.
        """
        return self.in_rows(
            lambda rows: divergences(self.model, prompts, original, rows, assignment)
        )

    def refusals(
        self,
        prompts: Sequence[Tokens],
        *,
        whole_answers: bool = False,
        assignment: Assignment = ALONE,
    ) -> Refusals:
        """Answers to `prompts`, judged. whole_answers: go on behind a marker, for showing."""
        least = self._max_new_tokens if whole_answers else 0
        (found,) = self.refusals_of_sets([prompts], least=least, assignment=assignment)
        return found

    def refusals_of_sets(
        self,
        sets: Sequence[Sequence[Tokens]],
        *,
        least: int = 0,
        assignment: Assignment = ALONE,
    ) -> list[Refusals]:
        """Answers to several sets of prompts, judged; least: tokens wanted of each, whatever its verdict.

        Answered side by side they take less time than in turn: few rows that run on to their end do so once.
        """
        judging = Judging(self._markers, self._max_new_tokens, least=least)

        def work(slots: int) -> list[Refusals]:
            return judge(self.model, self.chat, sets, judging, slots, self._watch, assignment)

        return self.in_slots(work)

    def hearing(
        self,
        prompts: Sequence[Tokens],
        *,
        limit: int | None,
        urgency: tuple[float, ...] | None,
        assignment: Assignment,
    ) -> Hearing:
        """A candidate that is to be asked `prompts` in a pool, beside others; see `Judging`."""
        judging = Judging(self._markers, self._max_new_tokens, limit, urgency)
        return Hearing(self.model, self.chat, prompts, judging, self._watch, assignment)

    def in_slots(self, work: Callable[[int], Result]) -> Result:
        """`work(slots)` for decoding, with fewer slots for good if memory runs out."""
        result, self.slots = with_halving(self.slots, work, self.emit_halved)
        return result


@dataclass(frozen=True)
class Part:
    """Target and control prompts of one part, as tokens, and what the original model makes of them.

    original: log-probabilities of the first answer token on control prompts [prompt, vocabulary], float32.
    answered: the original model's answers to target prompts. early: what early layers make of both sets.
    """

    target: tuple[Tokens, ...]
    control: tuple[Tokens, ...]
    original: Tensor
    answered: Refusals
    early: EarlyPart | None = None

    @property
    def refusals(self) -> int:
        """How many target prompts the original model refuses."""
        return self.answered.count

    def divergences(self, runner: Runner) -> list[float]:
        """KL(original ‖ model as it is now) of the first answer token, for each control prompt, nats."""
        return runner.divergences(self.control, self.original)


def measure_original(
    runner: Runner,
    target: PromptSet,
    control: PromptSet,
    room: Callable[[Sequence[Tokens], Sequence[Tokens]], EarlyPart | None] = lambda *_: None,
) -> Part:
    """Ask the unedited model. room: called with target and control prompts, where early layers are kept."""
    target_tokens = tuple(runner.chat.encode(target.prompts))
    control_tokens = tuple(runner.chat.encode(control.prompts))
    early = room(target_tokens, control_tokens)
    part = Part(
        target=target_tokens,
        control=control_tokens,
        original=runner.log_probabilities(
            control_tokens, early.control.recording() if early else None
        ),
        answered=runner.refusals(
            target_tokens, assignment=Assignment(early=early.target.recording() if early else None)
        ),
        early=early,
    )
    if early is not None:
        early.prove(runner.model, target_tokens, control_tokens)
    return part
