"""What to do about a model that does not fit into memory: what may still be tried, and what to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from excise.checkpoint.index import checkpoint_index
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import DTYPES, ORDINARY
from excise.devices.memory import DeviceMemory, device_memory
from excise.errors import OutOfMemoryError
from excise.models.storage import packing_in_words, stored_dtype

_FLOAT32_BYTES = 4


def smaller(dtypes: Sequence[str], failed: str, source: ModelSource) -> tuple[str, ...]:
    """Those of `dtypes` in which the model takes less memory than in the one that was too large."""
    limit = _number_bytes(failed, source)
    return tuple(dtype for dtype in dtypes if _number_bytes(dtype, source) < limit)


def too_large(
    source: ModelSource,
    dtype: str,
    packing: str | None,
    devices: Sequence[torch.device],
    limits: Mapping[int | str, int] | None,
    why: str,
) -> OutOfMemoryError:
    """The error for a model that no data type makes fit: what it takes, what there is, what to do.

    dtype: the last one that was tried. packing: how its weights are or become packed. devices: where it was
    to lie. limits: --max-memory. why: what failed. To be called when what was loaded is gone.
    """
    as_what = dtype if packing is None else packing_in_words(packing)
    there = ", ".join(_free(device_memory(device)) for device in devices)
    advice = [] if packing else ["pack its weights (--quantization bnb_4bit)"]
    if packing is None and _number_bytes(dtype, source) == _FLOAT32_BYTES:
        advice.append("take a smaller data type (--dtype bfloat16)")
    spread = "other limits in --max-memory" if limits else "--max-memory 0=…,cpu=…"
    advice.append(f"let some of them lie elsewhere ({spread} --offload-folder DIR)")
    stored = "" if packing is None else " as they are stored"
    return OutOfMemoryError(
        f"{source.name} does not fit into memory as {as_what}: its weights take "
        f"{_gib(_weights_bytes(source, dtype, packing))}{stored}, and there is {there} "
        f"({why}); {', or '.join(advice)}"
    )


def _free(memory: DeviceMemory) -> str:
    return f"{_gib(memory.free)} free of {_gib(memory.total)} on {memory.name}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _number_bytes(dtype: str, source: ModelSource) -> int:
    """Bytes of one number of a model loaded as `dtype`; "auto" is the type that it is stored in."""
    named = stored_dtype(source) if dtype == "auto" else dtype
    known = getattr(torch, named or "float32", None)
    return known.itemsize if isinstance(known, torch.dtype) else _FLOAT32_BYTES


def _weights_bytes(source: ModelSource, dtype: str, packing: str | None) -> int:
    """Bytes that the weights take: of plain numbers, in `dtype`; of packed ones, as they are stored."""
    each = _number_bytes(dtype, source)
    if source.gguf is not None:
        # Its blocks are unpacked while loading.
        from excise.checkpoint.gguf_file import open_gguf

        return each * sum(
            int(one.n_elements) for one in open_gguf(source.folder / source.gguf).tensors
        )
    total = 0
    for held in checkpoint_index(source.folder).values():
        plain = packing is None and held.dtype in ORDINARY
        # What has no name there has numbers of a byte or less.
        stored = DTYPES.get(held.dtype, torch.uint8).itemsize
        total += prod(held.shape) * (each if plain else stored)
    return total
