"""How fast this machine multiplies matrices, and the fastest data type on its CPU.

Processors with bfloat16 instructions multiply bfloat16 at least twice as fast as float32. Other processors
emulate it much more slowly. The rate is therefore measured once, before a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from excise.checkpoint.folder import weight_files
from excise.checkpoint.source import ModelSource
from excise.devices.prepacked import can_prepack
from excise.models.quantization import stored_dtype
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


_HALVES = ("bfloat16", "float16")
_ROOM = 0.5
"""Share of the free memory that a model loaded in float32 instead of its own type may take."""

Rate = Callable[[torch.dtype, torch.device], float]


def fastest_first(
    source: ModelSource, dtypes: tuple[str, ...], rate: Rate = matrix_rate
) -> tuple[str, ...]:
    """`dtypes`, with float32 moved to the front if the model's 16-bit type is slower on this CPU.

    Nothing moves unless `dtypes` begins with "auto" and the float32 model fits into memory.
    """
    stored = stored_dtype(source)
    if dtypes[0] != "auto" or "float32" not in dtypes or stored not in _HALVES:
        return dtypes
    files, _ = weight_files(source.folder)
    in_float32 = 2 * sum((source.folder / name).stat().st_size for name in files)
    if in_float32 > _ROOM * psutil.virtual_memory().available:
        return dtypes
    processor = torch.device("cpu")
    if rate(getattr(torch, stored), processor) >= rate(torch.float32, processor):
        return dtypes
    return ("float32", *(dtype for dtype in dtypes if dtype != "float32"))
