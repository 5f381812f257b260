"""What a pass over many prompts measured, brought to the host together, with the word that it is numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.devices.doubles import doubles
from excise.devices.transfers import on_host
from excise.engine.prefill import NOT_FINITE
from excise.errors import TrialError


def gather_finite(values: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
    """`values`, float64, on the host: by one transfer, if all lie on one device.

    logits: for each group that ran unchecked, whether its logits are finite, as `all_finite` says it.
    Raises TrialError if those of any are not.
    """
    *found, numbers = on_host([*values, doubles(torch.stack(list(logits)).to(torch.float32))])
    if not numbers.all():
        raise TrialError(NOT_FINITE)
    return found


def all_finite(logits: Tensor) -> Tensor:
    """Whether all of `logits` are finite: one bool, where they lie, which nobody has waited for yet."""
    return torch.isfinite(logits).all()
