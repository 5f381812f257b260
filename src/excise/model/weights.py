"""Weights as dense numbers, however they are stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def dense(module: nn.Module, name: str) -> Tensor:
    """The parameter `name` of a module as a dense float32 tensor on the host."""
    return module.get_parameter(name).detach().to("cpu", torch.float32)
