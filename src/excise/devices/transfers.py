"""Moves tensors between devices: to the host in few transfers, and to a device that supports float64."""

from __future__ import annotations

from collections.abc import Sequence

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


_HOST = torch.device("cpu")


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors`, of any shapes, on the host: one transfer for each device and data type."""
    result = list(tensors)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.device != _HOST:
            groups.setdefault((tensor.device, tensor.dtype), []).append(index)
    for members in groups.values():
        parts = [tensors[index] for index in members]
        copied = torch.cat([part.flatten() for part in parts]).cpu()
        pieces = torch.split(copied, [part.numel() for part in parts])
        for index, piece in zip(members, pieces, strict=True):
            result[index] = piece.view(tensors[index].shape)
    return result
