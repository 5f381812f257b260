"""Float64 on the device where numbers lie, or on the host if the device does not know it."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices that raise where a float64 number would come to lie on them."""


def float64_device(device: torch.device | str) -> torch.device:
    """Where float64 numbers that belong to `device` are kept."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def as_float64(tensor: Tensor) -> Tensor:
    """`tensor` as float64, on its own device if it can be."""
    # In two steps: a move that converts as well converts where the tensor lies.
    return tensor.to(float64_device(tensor.device)).to(torch.float64)
