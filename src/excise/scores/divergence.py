"""KL divergence between the original and the edited model's next-token distributions."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) of each row, in nats, float64: Σ p (log p − log q).

    original, edited: log-probabilities [prompt, vocabulary]. Source: Kullback and Leibler 1951.
    """
    p_log = original.to(torch.float64)
    terms = p_log.exp() * (p_log - edited.to(torch.float64))
    # 0 · log 0 is 0: a token that the original rules out adds nothing, whatever the edit makes of it.
    return torch.where(p_log.isneginf(), 0.0, terms).sum(-1)
