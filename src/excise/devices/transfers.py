"""Numbers from devices to the host. Each copy waits for all that its device was asked to do before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_HOST = torch.device("cpu")


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors`, of whatever shapes, on the host: by one copy for each device and data type among them."""
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
