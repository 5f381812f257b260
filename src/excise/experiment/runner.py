"""The model with chat, markers, and the number of slots and rows that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment, LayerCache
from excise.engine.batch_size import with_halving
from excise.engine.decode import run_requests
from excise.engine.prefill import Tokens
from excise.events import Emit
from excise.experiment.events import BatchReduced
from excise.experiment.first_tokens import compared, log_probabilities
from excise.judges.keywords import KeywordJudge
from excise.models.chat import Chat
from excise.scorers.divergence import Reduce, kl_divergence
from excise.scorers.refusals import JudgedRequest, JudgingParameters, MarkerJudge, Refusals

Result = TypeVar("Result")


class Runner:
    """Runs a model in batches, which shrink permanently when memory runs out.

    slots: sequences in a decoding batch, see `find_batch_size`. rows: prompts in a forward pass without
    decoding, the same in every run, because rounding, and with it the search, depends on them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        *,
        markers: Sequence[str] | None,
        max_new_tokens: int,
        slots: int,
        rows: int = 32,
        emit: Emit,
    ) -> None:
        self.model, self.chat, self.slots, self.rows = model, chat, slots, rows
        self._markers, self._max_new_tokens, self._emit = markers, max_new_tokens, emit
        self._judge = MarkerJudge(model, chat, markers)

    def with_chat(self, chat: Chat) -> Runner:
        """The same model with another chat."""
        return self._like(chat, self.slots, self.rows)

    def with_batch(self, slots: int, rows: int) -> Runner:
        """The same model and chat with other batches."""
        return self._like(self.chat, slots, rows)

    def _like(self, chat: Chat, slots: int, rows: int) -> Runner:
        return Runner(
            self.model,
            chat,
            markers=self._markers,
            max_new_tokens=self._max_new_tokens,
            slots=slots,
            rows=rows,
            emit=self._emit,
        )

    def in_rows(self, work: Callable[[int], Result]) -> Result:
        """`work(rows)` for forward passes, with fewer rows for good if memory runs out."""
        result, self.rows = with_halving(self.rows, work, self.emit_halved)
        return result

    def emit_halved(self, size: int) -> None:
        """Emit that memory ran out, with the new batch size."""
        self._emit(BatchReduced(size))

    def log_probabilities(
        self, prompts: Sequence[Tokens], cached_layers: LayerCache | None = None
    ) -> Tensor:
        """Log-probabilities of the first answer token: [prompt, vocabulary], float32; see `first_tokens`."""
        assignment = Assignment(cached_layers=cached_layers)
        return self.in_rows(lambda rows: log_probabilities(self.model, prompts, rows, assignment))

    def divergences(
        self,
        prompts: Sequence[Tokens],
        original: Tensor,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> list[float]:
        """KL(original ‖ model) of the first answer token for each prompt, nats; see `first_tokens`."""
        (found,) = self.first_tokens(prompts, original, assignment)
        return list(found)

    def first_tokens(
        self,
        prompts: Sequence[Tokens],
        original: Tensor,
        assignment: Assignment = ONE_CANDIDATE,
        reduces: Sequence[Reduce] = (kl_divergence,),
    ) -> list[tuple[float, ...]]:
        """Comparisons of the first answer token; see `first_tokens.compared`."""
        return self.in_rows(
            lambda rows: compared(self.model, prompts, original, rows, assignment, reduces)
        )

    def refusals(
        self,
        prompts: Sequence[Tokens],
        *,
        whole_answers: bool = False,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> Refusals:
        """Answers to `prompts`, judged. whole_answers: do not stop at a certain refusal."""
        min_new_tokens = self._max_new_tokens if whole_answers else 0
        (found,) = self.refusals_of_sets(
            [prompts], min_new_tokens=min_new_tokens, assignment=assignment
        )
        return found

    def refusals_of_sets(
        self,
        sets: Sequence[Sequence[Tokens]],
        *,
        min_new_tokens: int = 0,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> list[Refusals]:
        """Answers to several sets of prompts, judged. min_new_tokens: see `JudgingParameters`.

        All sets decode side by side: only the last answers of all sets run in steps of few sequences.
        """
        judging = JudgingParameters(self._max_new_tokens, min_new_tokens=min_new_tokens)

        return self.in_slots(lambda slots: self._judge.answer(sets, judging, slots, assignment))

    @property
    def judge(self) -> KeywordJudge:
        """Decides whether an answer is a refusal."""
        return self._judge.keywords

    @property
    def max_new_tokens(self) -> int:
        """The longest answer, in tokens."""
        return self._max_new_tokens

    def is_certain(self, answer: Sequence[int]) -> bool:
        """True if an answer, as token ids, is a refusal whatever follows."""
        return self.judge.certain(self.chat.answer(answer))

    def answers_to(
        self, sets: Sequence[tuple[Sequence[Tokens], JudgingParameters]]
    ) -> list[Refusals]:
        """Answers to several sets of prompts, each with its own limits. All sets decode side by side."""

        def work(slots: int) -> list[Refusals]:
            judged = [JudgedRequest(self._judge, *each) for each in sets]
            requests = [each.request for each in judged if each.request.prompts]
            run_requests(self.model, requests, slots)
            return [each.verdicts() for each in judged]

        return self.in_slots(work)

    def judged_request(
        self, prompts: Sequence[Tokens], parameters: JudgingParameters, assignment: Assignment
    ) -> JudgedRequest:
        """A request for a scheduler, judged."""
        return JudgedRequest(self._judge, prompts, parameters, assignment)

    def in_slots(self, work: Callable[[int], Result]) -> Result:
        """`work(slots)` for decoding, with fewer slots for good if memory runs out."""
        result, self.slots = with_halving(self.slots, work, self.emit_halved)
        return result
