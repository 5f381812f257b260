"""Counting refusals: greedy answers judged by markers, rows left as soon as their verdict is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.answers import Asked, Referee
from excise.engine.assignment import ALONE, Assignment
from excise.engine.decode import answer
from excise.engine.prefill import Tokens
from excise.models.chat import Chat
from excise.scorers.markers import has_marker, is_refusal
from excise.scorers.watch import Watch, Watched


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
        """How many prompts were refused, at least."""
        return sum(self.refused)

    def __len__(self) -> int:
        return len(self.refused)


@dataclass(frozen=True)
class Judging:
    """How answers are judged.

    limit: the number of certain refusals from which on the candidate does not matter any more; None for no
    such number. urgency: of each prompt; those with a higher one are asked first. least: tokens that are
    wanted of each answer, whatever its verdict.
    """

    markers: tuple[str, ...]
    max_new_tokens: int
    limit: int | None = None
    urgency: tuple[float, ...] | None = None
    least: int = 0


class Hearing(Referee):
    """One candidate being asked. Ends a row when a marker has appeared, and all rows once past the limit.

    asked: the prompts, for a pool to answer. watch: one for these markers, which may know tokens from
    hearings before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        prompts: Sequence[Tokens],
        judging: Judging,
        watch: Watch,
        assignment: Assignment = ALONE,
    ) -> None:
        self._chat, self._judging, self._watch = chat, judging, watch
        self._limit = math.inf
        self.lower(judging.limit)
        self._forget(len(prompts))
        self.asked = Asked(
            model,
            prompts,
            max_new_tokens=judging.max_new_tokens,
            referee=self,
            assignment=assignment,
        )

    def _forget(self, prompts: int) -> None:
        self._watched = [Watched() for _ in range(prompts)]
        self._certain, self._cut = 0, set[int]()

    def begin_again(self) -> None:
        """Forget all that was said."""
        self._forget(len(self.asked.prompts))
        self.asked.begin_again()

    def lower(self, limit: int | None) -> None:
        """From now on no more than so many certain refusals matter."""
        self._limit = min(self._limit, math.inf if limit is None else limit)

    def wanted(self, row: int) -> bool:
        """See `Referee`."""
        return self._certain < self._limit

    def decided(self, row: int, answer: list[int]) -> bool:
        """See `Referee`."""
        if not self.wanted(row):
            self._cut.add(row)
            return True
        # An answer in which a marker has appeared is a refusal whatever follows. Only a marker decides: an
        # answer that is empty so far may still become one.
        if (
            len(answer) < self._judging.least
            or not self._watch.hints(self._watched[row], answer)
            or not has_marker(self._chat.answer(answer), self._judging.markers)
        ):
            return False
        self._certain += 1
        return True

    def urgency(self, row: int) -> float:
        """See `Referee`."""
        urgency = self._judging.urgency
        return 0.0 if urgency is None else urgency[row]

    def verdicts(self) -> Refusals:
        """What was found, once all that is wanted has been said."""
        tokens = self.asked.tokens
        # A row that was never begun has not even a first token.
        unknown = self._cut | {row for row, answer in enumerate(tokens) if not answer}
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
    judging: Judging,
    slots: int,
    watch: Watch | None = None,
    assignment: Assignment = ALONE,
) -> list[Refusals]:
    """Greedy answers to the prompts of each set, judged; all sets are answered side by side.

    watch: one for these markers that knows tokens from earlier calls; if not given, each token is learnt
    anew. Raises TrialError if a logit is not a number.
    """
    watch = watch or Watch(chat.decode, judging.markers)
    hearings = [Hearing(model, chat, prompts, judging, watch, assignment) for prompts in sets]
    answer(model, [hearing.asked for hearing in hearings if hearing.asked.prompts], slots)
    return [hearing.verdicts() for hearing in hearings]
