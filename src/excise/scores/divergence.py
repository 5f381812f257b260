"""KL divergence between the original and the edited model's next-token distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from excise.doubles import doubles


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) of each row, in nats, float64: Σ p (log p − log q).

    original, edited: log-probabilities [prompt, vocabulary]. Source: Kullback and Leibler 1951.
    """
    # Row by row: in float64, all rows of a large vocabulary at once would be gigabytes.
    rows = zip(original, edited, strict=True)
    return torch.stack([_row(doubles(p), doubles(q)) for p, q in rows])


def answer_divergences(original: Tensor, edited: Tensor, present: Tensor) -> list[Tensor]:
    """KL at every token of each answer, teacher-forced: one [token] a row, float64, nats.

    original, edited: log-probabilities [row, token, vocabulary]; present: [row, token] bool, True for
    tokens that are the answer's.
    """
    return [
        kl_divergence(p[there], q[there])
        for p, q, there in zip(original, edited, present, strict=True)
    ]


def _row(p_log: Tensor, q_log: Tensor) -> Tensor:
    # 0 · log 0 is 0: a token that the original rules out adds nothing, whatever the edit makes of it.
    return torch.where(p_log.isneginf(), 0.0, p_log.exp() * (p_log - q_log)).sum()
