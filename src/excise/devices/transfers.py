"""Copies tensors to the host in as few transfers as possible; each transfer waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
