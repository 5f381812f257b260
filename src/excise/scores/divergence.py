"""KL divergence between the original and the edited model's next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.doubles import doubles, doubles_device

_AT_ONCE = 2**22
"""Numbers of a distribution that an accelerator is given at a time: 32 MiB each of what is made of them."""


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) of each row, in nats, float64: Σ p (log p − log q).

    original, edited: log-probabilities [prompt, vocabulary]. Source: Kullback and Leibler 1951.
    """
    # In float64, all rows of a large vocabulary at once would be gigabytes. An accelerator takes several,
    # because each call costs it a launch; a CPU one, which its caches hold and no thread divides otherwise.
    several = original.device == doubles_device(original.device) != torch.device("cpu")
    rows = max(1, _AT_ONCE // original.shape[1]) if several else 1
    pieces = zip(torch.split(original, rows), torch.split(edited, rows), strict=True)
    return torch.cat([_rows(doubles(p), doubles(q)) for p, q in pieces])


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
