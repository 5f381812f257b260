"""The fastest data type on this CPU: the model's own, or float32.

Processors with bfloat16 instructions multiply bfloat16 at least twice as fast as float32. Other processors
emulate it much more slowly. The rate is therefore measured once, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch

from excise.checkpoint.folder import weight_files
from excise.checkpoint.source import ModelSource
from excise.models.quantization import stored_dtype
from excise.models.rate import matrix_rate

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
