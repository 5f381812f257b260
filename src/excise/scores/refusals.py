"""Counting refusals: greedy answers judged by markers, rows left as soon as their verdict is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.decode import greedy
from excise.engine.prefill import Tokens
from excise.model.chat import Chat
from excise.scores.markers import has_marker, is_refusal


@dataclass(frozen=True)
class Refusals:
    """Verdicts on a set of prompts.

    refused: one bool a prompt. answers, tokens: what was said until then, as text and as token ids.
    """

    refused: tuple[bool, ...]
    answers: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """How many prompts were refused."""
        return sum(self.refused)

    def __len__(self) -> int:
        return len(self.refused)


def count_refusals(
    model: PreTrainedModel,
    chat: Chat,
    prompts: Sequence[Tokens],
    *,
    markers: Sequence[str],
    max_new_tokens: int,
    slots: int,
    whole_answers: bool = False,
) -> Refusals:
    """Greedy answers of up to `max_new_tokens` tokens to `prompts`, each judged.

    An answer in which a marker has appeared is a refusal whatever follows, so its row stops there,
    unless `whole_answers` are wanted for showing.
    """

    def decided(answer: list[int]) -> bool:
        # Only a marker decides: an answer that is empty so far may still become one.
        return has_marker(chat.decode(answer), markers)

    answers = greedy(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        slots=slots,
        **({} if whole_answers else {"decided": decided}),
    )
    texts = tuple(chat.decode(answer) for answer in answers)
    return Refusals(
        tuple(is_refusal(text, markers) for text in texts), texts, tuple(map(tuple, answers))
    )
