"""A checkpoint's index: names, shapes and data types of its tensors, read from headers alone.

It takes milliseconds for each file, whatever the model's size, and any copy of a checkpoint has the
same one, however it is cut into files.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from excise.errors import ModelError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Data types under the names that safetensors has for them."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint. dtype: as safetensors names it, such as BF16; of a GGUF file, its type."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


Index = Mapping[str, Entry]
"""Tensor name → where it lies and what it is."""


def checkpoint_index(folder: Path, gguf: str | None = None) -> Index:
    """The index of the checkpoint in `folder`, or of a GGUF file in it.

    Raises ModelError if there are no weights, a file is missing or damaged, or a tensor occurs twice.
    """
    return read_index([folder / gguf] if gguf is not None else weight_files(folder))


def read_index(files: Sequence[Path]) -> Index:
    """The index of these files together. Raises ModelError."""
    index: dict[str, Entry] = {}
    for path in files:
        for name, dtype, shape in _entries(path):
            if name in index:
                raise ModelError(f"{path}: {name} is in {index[name].file.name} too")
            index[name] = Entry(path, dtype, shape)
    return index


def index_digest(index: Index) -> str:
    """16 hexadecimal digits that two checkpoints share if all names, shapes and data types are equal."""
    lines = [[name, entry.dtype, list(entry.shape)] for name, entry in sorted(index.items())]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]


def stored_name(name: str, index: Index) -> str | None:
    """The name in the checkpoint: those of base models leave out `model.`, others add it."""
    for known in (name, name.removeprefix("model."), f"model.{name}"):
        if known in index:
            return known
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads weights from, safetensors before old PyTorch ones.

    Some repositories hold the weights twice, under other names (`consolidated.safetensors`, say).
    Raises ModelError if there are none, or an index file names one that is not there.
    """
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        single, listing = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if single.exists():
            return [single]
        if listing.exists():
            return _listed(listing)
        if found := sorted(folder.glob(f"*{suffix}" if stem == "model" else f"{stem}*{suffix}")):
            return found
    raise ModelError(f"{folder}: no weights in it (*.safetensors or pytorch_model*.bin)")


def _listed(listing: Path) -> list[Path]:
    try:
        names = set(json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise ModelError(f"{listing}: damaged ({error}); download it again") from error
    files = [listing.parent / name for name in sorted(names)]
    for path in files:
        if not path.is_file():
            raise ModelError(
                f"{path}: missing, although {listing.name} names it; download it again"
            )
    return files


def _entries(path: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, data type and shape of each tensor in one file."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - an open file is not iterable
                    part = file.get_slice(name)
                    yield name, part.get_dtype(), tuple(part.get_shape())
        elif path.suffix == ".gguf":
            from gguf import GGUFReader

            for tensor in GGUFReader(path).tensors:
                yield tensor.name, tensor.tensor_type.name, tuple(map(int, tensor.shape))
        else:
            # On the meta device no numbers are read.
            held = torch.load(path, map_location="meta", weights_only=True)
            for name, tensor in held.items():
                yield name, _NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)
    except (
        SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: damaged weights file ({reason}); download it again") from error
