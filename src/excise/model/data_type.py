"""Which data type a model runs in on a CPU: its own, or float32 where this processor is faster with that.

Processors with bfloat16 instructions multiply in it at twice float32's rate and more; on others PyTorch
imitates the half types at a fraction of it. So it is measured, once, before a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import psutil
import torch

from excise.checkpoint.folder import weight_files
from excise.engine.rate import matrix_rate
from excise.model.source import ModelSource

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
    stored = _stored(source)
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


def _stored(source: ModelSource) -> str | None:
    """The data type that the checkpoint's configuration names."""
    if source.gguf is not None:
        return None
    try:
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # Loading says what is wrong with it.
    inner = config.get("text_config")
    for each in (config, inner if isinstance(inner, dict) else {}):
        named = each.get("dtype") or each.get("torch_dtype")
        if isinstance(named, str):
            return named
    return None
