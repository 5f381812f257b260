"""Tensors of a weights file: names, types, shapes and byte ranges; the safetensors header."""

from __future__ import annotations

import json
import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch

from excise.errors import UNREADABLE, ModelError, translated
from excise.system.files import require_fetched
from excise.system.json_files import parse_json

ORDINARY: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating-point types of unquantised weights, by safetensors' names."""

DTYPES: Mapping[str, torch.dtype] = {
    **ORDINARY,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_LONGEST_HEADER = 100_000_000
"""Bytes: the format's own limit."""
_PIECE = 1 << 22
"""Numbers compared at a time."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a weights file.

    dtype: safetensors' name of the type; for a GGUF file the gguf package's name, and the last axis of a
    quantised tensor counts bytes. start, end: byte positions in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def is_ordinary(self) -> bool:
        """True if it holds plain floating-point numbers."""
        return self.dtype in ORDINARY


@dataclass(frozen=True)
class WeightsFile:
    """A weights file and its tensors, in order of position.

    metadata: of a safetensors header.
    """

    path: Path
    size: int
    tensors: tuple[Entry, ...]
    kind: Literal["safetensors", "pytorch", "gguf"]
    metadata: Mapping[str, str] | None = None


def read_safetensors(path: Path) -> WeightsFile:
    """The tensors of a safetensors file. Raises ModelError if it is damaged or cut short."""
    require_fetched(path, ModelError)
    damaged = f"{path}: damaged weights file; download it again"
    with (
        translated(ModelError, f"{path}: cannot be read", OSError),
        translated(ModelError, damaged, struct.error, *UNREADABLE),
        path.open("rb") as file,
    ):
        size = path.stat().st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length))
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict | None):
            raise ValueError("its metadata are not a table")
        tensors = [_entry(name, found, 8 + length) for name, found in header.items()]
        expected = max((one.end for one in tensors), default=8 + length)
        if size != expected:
            raise ValueError(f"{size:,} bytes, should be {expected:,}")
    tensors.sort(key=lambda one: (one.start, one.end))
    return WeightsFile(path, size, tuple(tensors), "safetensors", metadata)


def _entry(name: str, found: Mapping[str, object], offset: int) -> Entry:
    shape, offsets = found["shape"], found["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"the entry of {name} is malformed")
    if not all(type(one) is int and one >= 0 for one in (*shape, *offsets)):
        raise ValueError(f"{name} has an invalid size")
    start, end = offsets
    entry = Entry(name, str(found["dtype"]), tuple(shape), offset + start, offset + end)
    dtype = DTYPES.get(entry.dtype)
    if start > end or (dtype is not None and prod(shape) * dtype.itemsize != end - start):
        raise ValueError(f"{name} has {end - start} bytes, which does not fit its shape")
    return entry


def safetensors_header(tensors: Sequence[Entry], metadata: Mapping[str, str] | None) -> bytes:
    """The header of a safetensors file that holds `tensors` one after the other."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for one in tensors:
        header[one.name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [offset, offset + one.size],
        }
        offset += one.size
    text = json.dumps(header, separators=(",", ":")).encode()
    # Padded, so that the tensors are aligned.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_bytes(path: Path, start: int, end: int) -> bytearray:
    """Bytes [start, end) of a file. Raises ModelError if the file is too short."""
    data = bytearray(end - start)
    # With a buffer, `readinto` reads until all is there; large reads bypass the buffer.
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(data) < len(data):
            raise ModelError(f"{path}: ends in the middle of a tensor; download it again")
    return data


def as_tensor(data: bytearray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Bytes as a tensor that shares their memory."""
    numbers = DTYPES.get(dtype, torch.uint8)
    return (
        torch.frombuffer(data, dtype=numbers).view(shape)
        if data
        else torch.empty(shape, dtype=numbers)
    )


def same_numbers(one: tuple[WeightsFile, Entry], other: tuple[WeightsFile, Entry]) -> bool:
    """True if two unquantised tensors are equal up to the rounding of the coarser type."""
    first, second = (
        as_tensor(read_bytes(file.path, entry.start, entry.end), entry.dtype, entry.shape).flatten()
        for file, entry in (one, other)
    )
    if first.shape != second.shape:
        return False
    tolerance = max(torch.finfo(first.dtype).eps, torch.finfo(second.dtype).eps)
    return all(
        torch.allclose(
            first[start : start + _PIECE].float(),
            second[start : start + _PIECE].float(),
            rtol=tolerance,
            atol=0.0,
        )
        for start in range(0, len(first), _PIECE)
    )


def possible_names(name: str) -> tuple[str, ...]:
    """The name with and without a leading `model.`; checkpoints of base models leave the prefix out."""
    return tuple(dict.fromkeys((name, name.removeprefix("model."), f"model.{name}")))


def stored_name(name: str, held: Container[str]) -> str | None:
    """The one of a name's possible_names that a checkpoint holds, None if it holds none."""
    return next((one for one in possible_names(name) if one in held), None)
