"""Counting refusals: greedy answers judged by markers, rows left as soon as their verdict is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.answers import Referee
from excise.engine.assignment import Assignment, Early
from excise.engine.decode import greedy
from excise.engine.prefill import Tokens
from excise.model.chat import Chat
from excise.scores.markers import has_marker, is_refusal
from excise.scores.watch import Watch, Watched


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

    limits: of each candidate, the number of certain refusals from which on it does not matter any more;
    None for no such number. urgency: of each prompt; those with a higher one are asked first.
    whole_answers: go on behind a marker, for showing. early: what early layers make of the prompts.
    """

    markers: tuple[str, ...]
    max_new_tokens: int
    limits: tuple[int | None, ...] = (None,)
    urgency: tuple[float, ...] | None = None
    whole_answers: bool = False
    early: Early | None = None


class _Jury(Referee):
    """Ends a row when a marker has appeared, and all rows of a candidate that is past its limit."""

    def __init__(
        self, chat: Chat, judging: Judging, prompts: int, owners: Sequence[int], watch: Watch
    ) -> None:
        self._chat, self._judging, self._prompts, self._owners = chat, judging, prompts, owners
        self._watch, self._watched = watch, [Watched() for _ in owners]
        self._limits = [math.inf if limit is None else limit for limit in judging.limits]
        self._certain = [0] * len(judging.limits)
        self.cut: set[int] = set()

    def wanted(self, row: int) -> bool:
        """See `Referee`."""
        owner = self._owners[row]
        return self._certain[owner] < self._limits[owner]

    def decided(self, row: int, answer: list[int]) -> bool:
        """See `Referee`."""
        if not self.wanted(row):
            self.cut.add(row)
            return True
        # An answer in which a marker has appeared is a refusal whatever follows. Only a marker decides: an
        # answer that is empty so far may still become one.
        if (
            self._judging.whole_answers
            or not self._watch.hints(self._watched[row], answer)
            or not has_marker(self._chat.decode(answer), self._judging.markers)
        ):
            return False
        self._certain[self._owners[row]] += 1
        return True

    def urgency(self, row: int) -> float:
        """See `Referee`."""
        urgency = self._judging.urgency
        return 0.0 if urgency is None else urgency[row % self._prompts]


def judge(
    model: PreTrainedModel,
    chat: Chat,
    prompts: Sequence[Tokens],
    judging: Judging,
    slots: int,
    announce: Callable[[Sequence[int]], None],
    watch: Watch | None = None,
) -> tuple[Refusals, ...]:
    """Greedy answers to `prompts` of each candidate, one for each of the limits, each judged.

    announce: called before every pass with the candidate of each of its rows. watch: one for these markers
    that knows tokens from earlier calls; if not given, each token is learnt anew.
    """
    watch = watch or Watch(chat.decode, judging.markers)
    candidates = len(judging.limits)
    owners = tuple(owner for owner in range(candidates) for _ in prompts)
    jury = _Jury(chat, judging, len(prompts), owners, watch)
    tokens = greedy(
        model,
        [*prompts] * candidates,
        max_new_tokens=judging.max_new_tokens,
        slots=slots,
        referee=jury,
        assignment=Assignment(owners, announce, judging.early),
    )
    # A row that was never begun has not even a first token.
    unknown = jury.cut | {row for row, answer in enumerate(tokens) if not answer}
    found: list[Refusals] = []
    for candidate in range(candidates):
        first = candidate * len(prompts)
        own = range(first, first + len(prompts))
        found.append(
            _verdicts(
                chat,
                judging.markers,
                [tokens[row] for row in own],
                frozenset(row - first for row in own if row in unknown),
            )
        )
    return tuple(found)


def _verdicts(
    chat: Chat, markers: Sequence[str], tokens: Sequence[list[int]], unknown: frozenset[int]
) -> Refusals:
    texts = tuple(chat.decode(answer) for answer in tokens)
    refused = tuple(
        row not in unknown and is_refusal(text, markers) for row, text in enumerate(texts)
    )
    return Refusals(refused, texts, tuple(map(tuple, tokens)), unknown)
