"""What an answer is and when it ends: one place for every way of decoding."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel


class Referee:
    """Says which rows are worth their time; this one lets every answer run to its end."""

    def wanted(self, row: int) -> bool:
        """False if nothing that the row could say matters any more; it is then not even begun."""
        return True

    def decided(self, row: int, answer: list[int]) -> bool:
        """True if nothing that could follow this answer so far matters; called after each token."""
        return False

    def urgency(self, row: int) -> float:
        """Rows with a higher one are begun earlier."""
        return 0.0


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer, as `generate` takes them from the generation configuration."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


class Answers:
    """The answers of all rows so far, as token ids, the end-of-turn token included."""

    def __init__(
        self, rows: int, ends: frozenset[int], max_new_tokens: int, referee: Referee
    ) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.referee = referee
        self._ends, self._max_new_tokens = ends, max_new_tokens

    def accept(self, tokens: Sequence[int], rows: Sequence[int]) -> list[bool]:
        """Append a token to the answer of each of `rows`; True for the rows that are done."""
        done: list[bool] = []
        for row, token in zip(rows, tokens, strict=True):
            answer = self.tokens[row]
            answer.append(token)
            done.append(
                token in self._ends
                or len(answer) >= self._max_new_tokens
                or self.referee.decided(row, answer)
            )
        return done
