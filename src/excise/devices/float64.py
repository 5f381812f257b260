"""float64 tensors on their own device, or on the CPU if the device does not support float64."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices without float64."""


def float64_device(device: torch.device | str) -> torch.device:
    """The device for float64 tensors that belong to `device`."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def as_float64(tensor: Tensor) -> Tensor:
    """`tensor` as float64, on `float64_device`."""
    # In two steps, because a combined move converts on the source device.
    return tensor.to(float64_device(tensor.device)).to(torch.float64)
