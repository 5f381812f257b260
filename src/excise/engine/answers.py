"""What an answer is and when it ends: one place for every way of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

Decided = Callable[[list[int]], bool]


def never(answer: list[int]) -> bool:
    """The `decided` that lets every answer run to its end."""
    return False


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer, as `generate` takes them from the generation configuration."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


class Answers:
    """The answers of all rows so far, as token ids, the end-of-turn token included."""

    def __init__(
        self, rows: int, ends: frozenset[int], max_new_tokens: int, decided: Decided
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self._ends, self._max_new_tokens, self._decided = ends, max_new_tokens, decided

    def accept(self, tokens: Sequence[int], rows: Sequence[int]) -> list[bool]:
        """Append a token to the answer of each of `rows`; True for the rows that are done."""
        done: list[bool] = []
        for row, token in zip(rows, tokens, strict=True):
            answer = self.tokens[row]
            answer.append(token)
            done.append(
                token in self._ends or len(answer) >= self._max_new_tokens or self._decided(answer)
            )
        return done
