"""Requests (the prompts of one candidate and their answers so far), and rules that end an answer."""

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
"""Takes the place of a token if a row's logits are not finite."""


class StoppingRule:
    """Decides which prompts are answered, and when an answer stops. The default rule stops no answer."""

    def is_wanted(self, index: int) -> bool:
        """False if prompt `index` need not be answered any more; it is then not admitted."""
        return True

    def should_stop(self, index: int, answer: list[int]) -> bool:
        """True if the answer to prompt `index` need not continue; called after each token."""
        return False

    def priority(self, index: int) -> float:
        """Prompts of higher priority are admitted first."""
        return 0.0


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer, as `generate` takes them from the generation configuration."""
    declared = model.generation_config.eos_token_id
    return frozenset([declared] if isinstance(declared, int) else declared or ())


class Request:
    """Prompts of one candidate and their answers.

    tokens: the answers so far, as token ids, the end-of-turn token included; an answer that never started is
    empty. ended: indices of answers that do not go on. waiting: indices of prompts that are not admitted yet,
    in order of admission. running: number of sequences being decoded. seconds: the request's share of the
    time that passes took. failure: the error that ended the request, if any.
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
        """Discard all answers."""
        self.tokens: list[list[int]] = [[] for _ in self.prompts]
        self.ended = set[int]()
        self.running = 0
        self.failure: TrialError | None = None
        # Among equal priorities the longest prompt is first: later prompts then fit into the cache's
        # window.
        self._waiting = sorted(
            range(len(self.prompts)),
            key=lambda index: (-self.stopping_rule.priority(index), -len(self.prompts[index])),
        )

    @property
    def waiting(self) -> list[int]:
        """Prompts that are wanted and not admitted yet, in order."""
        self._waiting = [index for index in self._waiting if self.stopping_rule.is_wanted(index)]
        return self._waiting

    @property
    def done(self) -> bool:
        """True if no prompt is running or waiting."""
        return not self.running and not self.waiting

    @property
    def longest(self) -> int:
        """The most tokens that a sequence of this request may have, prompt and answer."""
        return max(map(len, self.prompts)) + self.max_new_tokens

    def admit(self, indices: Sequence[int]) -> None:
        """Move prompts from waiting to running."""
        admitted = set(indices)
        self._waiting = [index for index in self._waiting if index not in admitted]
        self.running += len(indices)

    def append(self, index: int, token: int) -> bool:
        """Append a token to the answer of a running sequence; True if the sequence is finished."""
        answer = self.tokens[index]
        answer.append(token)
        finished = (
            token in self._ends
            or len(answer) >= self.max_new_tokens
            or self.failure is not None
            or self.stopping_rule.should_stop(index, answer)
        )
        self.running -= finished
        if finished:
            self.ended.add(index)
        return finished

    def fail(self, error: TrialError) -> None:
        """End the request: admit no more prompts; every running sequence ends with its next token."""
        self.failure, self._waiting = error, []


@dataclass(frozen=True)
class TokenSequence:
    """One prompt of a request with its answer."""

    request: Request
    index: int

    @property
    def prompt(self) -> Tokens:
        """The prompt's tokens."""
        return self.request.prompts[self.index]

    @property
    def candidate(self) -> int:
        """The candidate that the request belongs to."""
        return self.request.assignment.candidate

    def priority(self) -> float:
        """See `StoppingRule.priority`."""
        return self.request.stopping_rule.priority(self.index)

    def append(self, token: int) -> bool:
        """See `Request.append`."""
        return self.request.append(self.index, token)


def greedy_tokens(logits: Tensor) -> Tensor:
    """The token of the largest logit of each row [row, vocabulary]; `NO_TOKEN` if that logit is not finite.

    The largest logit is not finite if any logit of the row is NaN or positive infinity. Token and check are
    in one tensor, so that a decoding step waits for an accelerator once.
    """
    values, tokens = logits.max(-1)
    return tokens.masked_fill(~torch.isfinite(values), NO_TOKEN)


def fail_not_finite(sequences: Sequence[TokenSequence], tokens: Sequence[int]) -> None:
    """End the requests of sequences whose token is `NO_TOKEN`; tokens: those of `greedy_tokens`."""
    for sequence, token in zip(sequences, tokens, strict=True):
        if token == NO_TOKEN:
            sequence.request.fail(TrialError(NOT_FINITE))
