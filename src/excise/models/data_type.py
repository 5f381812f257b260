"""Which data type a model runs in on a CPU: its own, or float32 where this processor is faster with that.

Processors with bfloat16 instructions multiply in it at twice float32's rate and more; on others PyTorch
imitates the half types at a fraction of it. So it is measured, once, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch

from excise.checkpoint.folder import weight_files
from excise.checkpoint.source import ModelSource
from excise.models.rate import matrix_rate
from excise.models.storage import stored_dtype

_HALVES = ("bfloat16", "float16")
_ROOM = 0.5
"""Share of the free memory that a model may take when it is loaded in a larger type than its own."""

Rate = Callable[[torch.dtype, torch.device], float]


def fastest_first(
    source: ModelSource, dtypes: tuple[str, ...], rate: Rate = matrix_rate
) -> tuple[str, ...]:
    """`dtypes`, to be tried in turn, with float32 in front if the model's own half type is slower here.

    Only where the model's own type is what would be tried first ("auto"), and where there is room.
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
