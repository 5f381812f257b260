"""A model that does not fit into memory: smaller data types to try, and the error message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from excise.checkpoint.index import checkpoint_index
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import DTYPES, ORDINARY
from excise.devices.memory import device_memory
from excise.errors import OutOfMemoryError
from excise.models.quantization import packing_in_words, stored_dtype

_FLOAT32_BYTES = 4


def smaller_dtypes(dtypes: Sequence[str], failed: str, source: ModelSource) -> tuple[str, ...]:
    """The `dtypes` with fewer bytes a number than `failed`."""
    limit = _number_bytes(failed, source)
    return tuple(dtype for dtype in dtypes if _number_bytes(dtype, source) < limit)


def too_large_error(
    source: ModelSource,
    dtype: str,
    packing: str | None,
    devices: Sequence[torch.device],
    limits: Mapping[int | str, int] | None,
    why: str,
) -> OutOfMemoryError:
    """The error for a model that fits in no data type: needed memory, free memory, advice.

    dtype: the last data type tried. packing: the quantisation of the weights. limits: `max_memory`. why: the
    errors of all attempts. Free memory is measured, so the failed model has to be released first.
    """
    as_what = dtype if packing is None else packing_in_words(packing)
    there = ", ".join(
        f"{_gib(memory.free)} free of {_gib(memory.total)} on {memory.name}"
        for memory in map(device_memory, devices)
    )
    advice = [] if packing else ["quantise its weights with quantization (--quantization bnb_4bit)"]
    if packing is None and _number_bytes(dtype, source) == _FLOAT32_BYTES:
        advice.append("choose a smaller data type with dtypes (--dtype bfloat16)")
    advice.append(
        f"offload {'more' if limits else 'some'} of them with max_memory (--max-memory 0=…,cpu=…) and "
        "offload_folder (--offload-folder DIR)"
    )
    stored = "" if packing is None else " as they are stored"
    return OutOfMemoryError(
        f"{source.name} does not fit into memory as {as_what}: its weights take "
        f"{_gib(_weights_bytes(source, dtype, packing))}{stored}, and there is {there} "
        f"({why}); {', or '.join(advice)}"
    )


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _number_bytes(dtype: str, source: ModelSource) -> int:
    """Bytes of a number in `dtype`; "auto" is the checkpoint's own type."""
    named = stored_dtype(source) if dtype == "auto" else dtype
    known = getattr(torch, named or "float32", None)
    return known.itemsize if isinstance(known, torch.dtype) else _FLOAT32_BYTES


def _weights_bytes(source: ModelSource, dtype: str, packing: str | None) -> int:
    """Bytes of all weights: plain tensors in `dtype`, quantised tensors as they are stored."""
    each = _number_bytes(dtype, source)
    if source.gguf is not None:
        # transformers dequantises GGUF files while loading.
        from excise.checkpoint.gguf_file import open_gguf

        return each * sum(
            int(one.n_elements) for one in open_gguf(source.folder / source.gguf).tensors
        )
    total = 0
    for held in checkpoint_index(source.folder).values():
        plain = packing is None and held.dtype in ORDINARY
        # Types that are not in DTYPES take a byte or less a number.
        stored = DTYPES.get(held.dtype, torch.uint8).itemsize
        total += prod(held.shape) * (each if plain else stored)
    return total
