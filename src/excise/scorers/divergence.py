"""KL divergence between the original and the edited model's next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.devices.doubles import doubles, doubles_device

_AT_ONCE = 2**22
"""Numbers of a distribution that an accelerator is given at a time: 32 MiB each of what is made of them."""

ANSWER_TOKENS = 32
"""Tokens of the original model's answers over which KL is averaged, where it may and does say so many."""


@dataclass(frozen=True)
class AnswerTokens:
    """Over how many tokens of an answer KL was averaged: of the shortest answer, and of the longest."""

    least: int
    most: int

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> AnswerTokens:
        """The lengths of these answers. Raises ValueError if there are none."""
        lengths = [len(answer) for answer in answers]
        return cls(min(lengths), max(lengths))

    @property
    def title(self) -> str:
        """What the figure is called: `KL, mean of 32 answer tokens`, or of up to 32."""
        number = f"{self.most}" if self.least == self.most else f"up to {self.most}"
        return f"KL, mean of {number} answer token{'s' if self.most > 1 else ''}"


UNRECORDED = AnswerTokens(1, ANSWER_TOKENS)
"""Of figures that were written before this was recorded with them."""


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) of each row, in nats, float64: Σ p (log p − log q), never less than 0.

    What rounding makes negative, of two distributions that are as good as equal, is 0. original, edited:
    log-probabilities [prompt, vocabulary]. All is done where `edited` lies, or on the host if that device
    knows no float64. Source: Kullback and Leibler 1951.
    """
    place = doubles_device(edited.device)
    original, edited = original.to(place), edited.to(place)
    # In float64, all rows of a large vocabulary at once would be gigabytes. An accelerator takes several,
    # because each call costs it a launch; a CPU one, which its caches hold and no thread divides otherwise.
    rows = 1 if place.type == "cpu" else max(1, _AT_ONCE // original.shape[1])
    pieces = zip(torch.split(original, rows), torch.split(edited, rows), strict=True)
    found = torch.cat([_rows(doubles(p), doubles(q)) for p, q in pieces])
    # Adding 0 takes the sign off a negative zero.
    return found.clamp_min(0.0) + 0.0


def answer_divergences(original: Tensor, edited: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """KL at every token of each answer, teacher-forced: one [token] a row, float64, nats.

    original, edited: log-probabilities [row, token, vocabulary]; lengths: tokens of each answer, which
    are the last ones of its row.
    """
    return [
        kl_divergence(p[-length:], q[-length:])
        for p, q, length in zip(original, edited, lengths, strict=True)
    ]


def _rows(p_log: Tensor, q_log: Tensor) -> Tensor:
    # 0 · log 0 is 0: a token that the original rules out adds nothing, whatever the edit makes of it.
    return torch.where(p_log.isneginf(), 0.0, p_log.exp() * (p_log - q_log)).sum(-1)
