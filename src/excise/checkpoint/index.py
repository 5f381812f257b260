"""A checkpoint's index: names, shapes and data types of its tensors, read from headers alone.

It takes milliseconds for each file, whatever the model's size, and any copy of a checkpoint has the
same one, however it is cut into files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.checkpoint.folder import weight_files
from excise.checkpoint.pytorch_file import pytorch_shapes
from excise.checkpoint.tensors import WeightsFile, read_safetensors
from excise.errors import ModelError


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint. dtype: as safetensors names it, such as BF16; of a GGUF file, its type."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


Index = Mapping[str, TensorInfo]
"""Tensor name → where it lies and what it is."""


def checkpoint_index(folder: Path, gguf: str | None = None) -> Index:
    """The index of the checkpoint in `folder`, or of a GGUF file in it.

    Raises ModelError if there are no weights, a file is missing or damaged, or a tensor occurs twice.
    """
    names = weight_files(folder)[0] if gguf is None else [gguf]
    return read_index([folder / name for name in names])


def read_index(files: Sequence[Path]) -> Index:
    """The index of these files together. Raises ModelError."""
    index: dict[str, TensorInfo] = {}
    for path in files:
        for name, (dtype, shape) in _shapes(path).items():
            if name in index:
                raise ModelError(f"{path}: {name} is in {index[name].file.name} too")
            index[name] = TensorInfo(path, dtype, shape)
    return index


def _shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data types and shapes of a file's tensors. Where the numbers lie does not matter here."""
    if path.suffix.lower() == ".gguf":
        # The package takes a while to import, and few checkpoints are of this kind.
        from excise.checkpoint.gguf_file import read_gguf

        return _of_entries(read_gguf(path))
    if path.suffix.lower() == ".safetensors":
        return _of_entries(read_safetensors(path))
    return pytorch_shapes(path)


def _of_entries(file: WeightsFile) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {one.name: (one.dtype, one.shape) for one in file.tensors}


def index_digest(index: Index) -> str:
    """16 hexadecimal digits that two checkpoints share if all names, shapes and data types are equal."""
    lines = [[name, held.dtype, list(held.shape)] for name, held in sorted(index.items())]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]
