"""How fast this machine multiplies matrices: the rate that nothing a model does can beat."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from excise.devices.prepacked import can_prepack
from excise.undocumented import prepack_linear_weight, prepacked_linear

_SMALLEST, _LARGEST = 256, 4096
_REPEATS = 5


def matrix_rate(dtype: torch.dtype, device: torch.device, seconds: float = 0.3) -> float:
    """Floating-point operations a second in products of two n × n matrices, 2n³ each.

    n is doubled until one product takes a share of `seconds` that keeps the whole within them. The fastest
    product counts: whatever else the machine does only makes it slower. On a CPU that can
    prepack weights, the product measured here uses a prepacked weight.
    """
    size = _SMALLEST
    prepacked = device.type == "cpu" and can_prepack(dtype)
    while True:
        left, right = (
            torch.randn(size, size, device=device).to(dtype)  # float32 first: not all have randn
            for _ in range(2)
        )
        if prepacked:
            right = prepack_linear_weight(right)
        _product(left, right, prepacked)  # the first one warms up
        fastest = _product(left, right, prepacked)
        # The size before took an eighth of it.
        if fastest * 8 * _REPEATS >= seconds or size == _LARGEST:
            break
        size *= 2
    fastest = min(fastest, *(_product(left, right, prepacked) for _ in range(_REPEATS - 1)))
    return 2 * size**3 / fastest


def _product(left: Tensor, right: Tensor, prepacked: bool) -> float:
    """Seconds of one product."""
    synchronise(left.device)
    started = time.perf_counter()
    if prepacked:
        prepacked_linear(left, right, None)
    else:
        left @ right
    synchronise(left.device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
