"""What an answer is and when it ends: one place for every way of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.prefill import NOT_FINITE, Tokens
from excise.errors import TrialError

NO_TOKEN = -1
"""Stands for the token of a row whose logits are not numbers."""


class StoppingRule:
    """Says which rows are worth their time; this one lets every answer run to its end."""

    def is_wanted(self, row: int) -> bool:
        """False if nothing that the row could say matters any more; it is then not even begun."""
        return True

    def should_stop(self, row: int, answer: list[int]) -> bool:
        """True if nothing that could follow this answer so far matters; called after each token."""
        return False

    def priority(self, row: int) -> float:
        """Rows with a higher one are begun earlier."""
        return 0.0


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer, as `generate` takes them from the generation configuration."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        return frozenset()
    return frozenset([declared] if isinstance(declared, int) else declared)


class Request:
    """Prompts that one candidate is asked, on their way to answers.

    tokens: the answers so far, as token ids, the end-of-turn token included; a row that was never begun has
    an empty one. waiting: rows that have not begun, those to begin next first. open: rows being decoded.
    seconds: its share of the time that passes took. failure: why it cannot be answered, if it cannot.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Tokens],
        *,
        max_new_tokens: int,
        stopping_rule: StoppingRule | None = None,
        assignment: Assignment = ONE_CANDIDATE,
    ) -> None:
        self.prompts, self.assignment = prompts, assignment
        self.max_new_tokens, self.stopping_rule = max_new_tokens, stopping_rule or StoppingRule()
        self.seconds = 0.0
        self._ends = end_tokens(model)
        self.restart()

    def restart(self) -> None:
        """Forget all that was said."""
        self.tokens: list[list[int]] = [[] for _ in self.prompts]
        self.open = 0
        self.failure: TrialError | None = None
        # The urgent ones first. Of like urgency the longest: later rows then fit into a batch's window.
        self._waiting = sorted(
            range(len(self.prompts)),
            key=lambda row: (-self.stopping_rule.priority(row), -len(self.prompts[row])),
        )

    @property
    def waiting(self) -> list[int]:
        """Rows that have not begun and are worth it, in order."""
        self._waiting = [row for row in self._waiting if self.stopping_rule.is_wanted(row)]
        return self._waiting

    @property
    def done(self) -> bool:
        """True if every answer has come to its end."""
        return not self.open and not self.waiting

    @property
    def longest(self) -> int:
        """Tokens of the longest row that may come of it."""
        return max(map(len, self.prompts)) + self.max_new_tokens

    def begin(self, rows: Sequence[int]) -> None:
        """Take rows out of those that wait."""
        begun = set(rows)
        self._waiting = [row for row in self._waiting if row not in begun]
        self.open += len(rows)

    def accept(self, row: int, token: int) -> bool:
        """Append a token to the answer of an open row; True if the row is done."""
        answer = self.tokens[row]
        answer.append(token)
        done = (
            token in self._ends
            or len(answer) >= self.max_new_tokens
            or self.failure is not None
            or self.stopping_rule.should_stop(row, answer)
        )
        self.open -= done
        return done

    def fail(self, error: TrialError) -> None:
        """Leave it: nothing is begun any more, and every open row is done with its next token."""
        self.failure, self._waiting = error, []


@dataclass(frozen=True)
class TokenSequence:
    """One of the prompts that somebody was asked."""

    request: Request
    index: int

    @property
    def prompt(self) -> Tokens:
        """The prompt itself."""
        return self.request.prompts[self.index]

    @property
    def candidate(self) -> int:
        """The candidate that it belongs to."""
        return self.request.assignment.candidate

    def priority(self) -> float:
        """See `StoppingRule`."""
        return self.request.stopping_rule.priority(self.index)

    def accept(self, token: int) -> bool:
        """See `Request.accept`."""
        return self.request.accept(self.index, token)


def greedy_tokens(logits: Tensor) -> Tensor:
    """The token of the largest logit of each row [row, vocabulary]; `NO_TOKEN` where that is not a number.

    It is none if any of the row's logits is not a number, or positive infinity. Both in one tensor: whatever
    comes from an accelerator is waited for, and this comes once a step.
    """
    values, tokens = logits.max(-1)
    return tokens.masked_fill(~torch.isfinite(values), NO_TOKEN)


def fail_not_finite(rows: Sequence[TokenSequence], tokens: Sequence[int]) -> None:
    """Fail those who were asked a row of logits that are not numbers; tokens: as `greedy_tokens` gives them."""
    for row, token in zip(rows, tokens, strict=True):
        if token == NO_TOKEN:
            row.request.fail(TrialError(NOT_FINITE))
