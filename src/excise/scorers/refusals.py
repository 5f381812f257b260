"""Counting refusals: greedy answers judged by markers, rows left as soon as their verdict is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.answers import Request, StoppingRule
from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.decode import answer
from excise.engine.prefill import Tokens
from excise.models.chat import Chat
from excise.scorers.marker_scanner import MarkerScanner, ScanState
from excise.scorers.markers import has_marker, is_refusal


@dataclass(frozen=True)
class Refusals:
    """Verdicts on a set of prompts.

    refused: one bool a prompt. answers, tokens: what was said until then, as text and as token ids.
    unknown: prompts whose verdict was not waited for; they count as not refused.
    """

    refused: tuple[bool, ...]
    answers: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    unknown: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """How many prompts were refused, at min_new_tokens."""
        return sum(self.refused)

    def __len__(self) -> int:
        return len(self.refused)


@dataclass(frozen=True)
class JudgingParameters:
    """How answers are judged.

    limit: the number of certain refusals from which on the candidate does not matter any more; None for no
    such number. priorities: of each prompt; those with a higher one are asked first. min_new_tokens: tokens that are
    wanted of each answer, whatever its verdict.
    """

    markers: tuple[str, ...]
    max_new_tokens: int
    limit: int | None = None
    priorities: tuple[float, ...] | None = None
    min_new_tokens: int = 0


class JudgedRequest(StoppingRule):
    """One candidate being asked. Ends a row when a marker has appeared, and all rows once past the limit.

    request: the prompts, for a scheduler to answer. scanner: one for these markers, which may know tokens from
    judged before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        prompts: Sequence[Tokens],
        judging: JudgingParameters,
        scanner: MarkerScanner,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> None:
        self._chat, self._judging, self._scanner = chat, judging, scanner
        self._limit = math.inf
        self.lower_limit(judging.limit)
        self._forget(len(prompts))
        self.request = Request(
            model,
            prompts,
            max_new_tokens=judging.max_new_tokens,
            stopping_rule=self,
            assignment=assignment,
        )

    def _forget(self, prompts: int) -> None:
        self._states = [ScanState() for _ in range(prompts)]
        self._certain, self._stopped = 0, set[int]()

    def restart(self) -> None:
        """Forget all that was said."""
        self._forget(len(self.request.prompts))
        self.request.restart()

    def lower_limit(self, limit: int | None) -> None:
        """From now on no more than so many certain refusals matter."""
        self._limit = min(self._limit, math.inf if limit is None else limit)

    def is_wanted(self, row: int) -> bool:
        """See `StoppingRule`."""
        return self._certain < self._limit

    def should_stop(self, row: int, answer: list[int]) -> bool:
        """See `StoppingRule`."""
        if not self.is_wanted(row):
            self._stopped.add(row)
            return True
        # An answer in which a marker has appeared is a refusal whatever follows. Only a marker decides: an
        # answer that is empty so far may still become one.
        if (
            len(answer) < self._judging.min_new_tokens
            or not self._scanner.may_hold_marker(self._states[row], answer)
            or not has_marker(self._chat.answer(answer), self._judging.markers)
        ):
            return False
        self._certain += 1
        return True

    def priority(self, row: int) -> float:
        """See `StoppingRule`."""
        priorities = self._judging.priorities
        return 0.0 if priorities is None else priorities[row]

    def verdicts(self) -> Refusals:
        """What was found, once all that is wanted has been said."""
        tokens = self.request.tokens
        # A row that was never begun has not even a first token.
        unknown = self._stopped | {row for row, answer in enumerate(tokens) if not answer}
        texts = tuple(self._chat.answer(answer) for answer in tokens)
        refused = tuple(
            row not in unknown and is_refusal(text, self._judging.markers)
            for row, text in enumerate(texts)
        )
        return Refusals(refused, texts, tuple(map(tuple, tokens)), frozenset(unknown))


def judge(
    model: PreTrainedModel,
    chat: Chat,
    sets: Sequence[Sequence[Tokens]],
    judging: JudgingParameters,
    slots: int,
    scanner: MarkerScanner | None = None,
    assignment: Assignment = ONE_CANDIDATE,
) -> list[Refusals]:
    """Greedy answers to the prompts of each set, judged; all sets are answered side by side.

    scanner: one for these markers that knows tokens from earlier calls; if not given, each token is learnt
    anew. Raises TrialError if a logit is not a number.
    """
    scanner = scanner or MarkerScanner(chat.decode, judging.markers)
    judged = [JudgedRequest(model, chat, prompts, judging, scanner, assignment) for prompts in sets]
    answer(model, [judged.request for judged in judged if judged.request.prompts], slots)
    return [judged.verdicts() for judged in judged]
