"""Measurements of many passes, copied to the host together with the check that all logits are finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.devices.float64 import as_float64
from excise.devices.transfers import on_host
from excise.engine.prefill import NOT_FINITE
from excise.errors import TrialError


def gather_finite(values: Sequence[Tensor], finite: Sequence[Tensor]) -> list[Tensor]:
    """`values`, float64, on the host: by one copy, if all lie on one device.

    finite: the result of `all_finite` for each group that ran unchecked. Raises TrialError if one is False.
    """
    *found, checks = on_host([*values, as_float64(torch.stack(list(finite)).to(torch.float32))])
    if not checks.all():
        raise TrialError(NOT_FINITE)
    return found


def all_finite(logits: Tensor) -> Tensor:
    """Whether all of `logits` are finite: one bool on their device, which the host does not wait for."""
    return torch.isfinite(logits).all()
