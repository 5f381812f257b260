"""Counting refusals: greedy answers judged by keywords; an answer stops as soon as its verdict is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.answers import Request, StoppingRule
from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.decode import run_requests
from excise.engine.prefill import Tokens
from excise.judges.keywords import KeywordJudge
from excise.judges.marker_scanner import MarkerScanner, ScanState
from excise.models.chat import Chat


@dataclass(frozen=True)
class Refusals:
    """Verdicts on a set of prompts.

    refused: one bool for each prompt. answers, tokens: the answers as far as they were decoded, as text and
    as token ids. unknown: prompts whose answer stopped before its verdict; they count as not refused.
    """

    refused: tuple[bool, ...]
    answers: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    unknown: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """How many prompts were refused, at least."""
        return sum(self.refused)

    def __len__(self) -> int:
        return len(self.refused)


@dataclass(frozen=True)
class JudgingParameters:
    """How far prompts are answered.

    limit: the number of certain refusals at which the request stops; None for no limit. priorities: of each
    prompt; see `StoppingRule.priority`. min_new_tokens: tokens of each answer that are decoded whatever the
    verdict.
    """

    max_new_tokens: int
    limit: float | None = None
    priorities: tuple[float, ...] | None = None
    min_new_tokens: int = 0


class MarkerJudge:
    """Judges a model's greedy answers by keywords. Its scanner keeps what it has learnt of tokens.

    markers: see `KeywordJudge`.
    """

    def __init__(self, model: PreTrainedModel, chat: Chat, markers: Sequence[str] | None) -> None:
        self.model, self.chat = model, chat
        self.keywords = KeywordJudge(markers)
        self.scanner = MarkerScanner(chat.decode, self.keywords.cues, self.keywords.reach)

    def answer(
        self,
        sets: Sequence[Sequence[Tokens]],
        parameters: JudgingParameters,
        slots: int,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> list[Refusals]:
        """Greedy answers to the prompts of each set, judged; all sets decode side by side.

        Raises TrialError if a logit is not finite.
        """
        judged = [JudgedRequest(self, prompts, parameters, assignment) for prompts in sets]
        requests = [each.request for each in judged if each.request.prompts]
        run_requests(self.model, requests, slots)
        return [each.verdicts() for each in judged]


class JudgedRequest(StoppingRule):
    """A request that stops an answer when its verdict is certain, and stops as a whole at the limit.

    request: the prompts, for a scheduler.
    """

    def __init__(
        self,
        judge: MarkerJudge,
        prompts: Sequence[Tokens],
        parameters: JudgingParameters,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> None:
        self._judge, self._parameters = judge, parameters
        self._limit = math.inf
        self.lower_limit(parameters.limit)
        self._forget(len(prompts))
        self.request = Request(
            judge.model,
            prompts,
            max_new_tokens=parameters.max_new_tokens,
            stopping_rule=self,
            assignment=assignment,
        )

    def _forget(self, prompts: int) -> None:
        self._states = [ScanState() for _ in range(prompts)]
        self._certain, self._stopped = 0, set[int]()

    def restart(self) -> None:
        """Discard all answers and verdicts."""
        self._forget(len(self.request.prompts))
        self.request.restart()

    def lower_limit(self, limit: float | None) -> None:
        """Stop at `limit` certain refusals, if that is less than the limit so far."""
        self._limit = min(self._limit, math.inf if limit is None else limit)

    @property
    def certain(self) -> int:
        """The number of answers that were stopped because their refusal is certain."""
        return self._certain

    @property
    def complete(self) -> set[int]:
        """The indices of answers that ended by themselves or with a certain refusal."""
        return self.request.ended - self._stopped

    def is_wanted(self, index: int) -> bool:
        """See `StoppingRule`."""
        return self._certain < self._limit

    def should_stop(self, index: int, answer: list[int]) -> bool:
        """See `StoppingRule`."""
        if not self.is_wanted(index):
            self._stopped.add(index)
            return True
        if (
            len(answer) < self._parameters.min_new_tokens
            or not self._judge.scanner.may_hold_marker(self._states[index], answer)
            or not self._judge.keywords.certain(self._judge.chat.answer(answer))
        ):
            return False
        self._certain += 1
        return True

    def priority(self, index: int) -> float:
        """See `StoppingRule`."""
        priorities = self._parameters.priorities
        return 0.0 if priorities is None else priorities[index]

    def verdicts(self) -> Refusals:
        """The verdicts, once the request is done."""
        tokens = self.request.tokens
        # An answer that never started has no token.
        unknown = self._stopped | {index for index, answer in enumerate(tokens) if not answer}
        texts = tuple(self._judge.chat.answer(answer) for answer in tokens)
        refused = tuple(
            index not in unknown and self._judge.keywords.refused(text)
            for index, text in enumerate(texts)
        )
        return Refusals(refused, texts, tuple(map(tuple, tokens)), frozenset(unknown))
