"""What a pass over many prompts measured, brought to the host together, with the word that it is numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.devices.doubles import doubles
from excise.devices.transfers import on_host
from excise.engine.prefill import NO_NUMBERS
from excise.errors import TrialError


def gathered(values: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
    """`values`, float64, on the host: by one transfer, if all lie on one device.

    logits: for each group that ran unchecked, whether its logits are finite, as `are_numbers` says it.
    Raises TrialError if those of any are not.
    """
    *found, numbers = on_host([*values, doubles(torch.stack(list(logits)).to(torch.float32))])
    if not numbers.all():
        raise TrialError(NO_NUMBERS)
    return found


def are_numbers(logits: Tensor) -> Tensor:
    """Whether all of `logits` are finite: one bool, where they lie, which nobody has waited for yet."""
    return torch.isfinite(logits).all()
