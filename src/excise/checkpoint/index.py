"""A checkpoint's index: names, shapes and data types of its tensors, read from headers alone.

Reading takes milliseconds a file. The index does not depend on how the checkpoint is split into files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.checkpoint.folder import weight_files
from excise.checkpoint.pytorch_file import pytorch_shapes
from excise.checkpoint.read import read_weights
from excise.errors import ModelError


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint. dtype: safetensors' name, such as BF16, or the type in a GGUF file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


Index = Mapping[str, TensorInfo]
"""Tensor name → file, data type and shape."""


def checkpoint_index(folder: Path, gguf: str | None = None) -> Index:
    """The index of the checkpoint in `folder`, or of a GGUF file in it.

    Raises ModelError if there are no weights, a file is missing or damaged, or a tensor occurs twice.
    """
    names = weight_files(folder)[0] if gguf is None else [gguf]
    return read_index([folder / name for name in names])


def read_index(files: Sequence[Path]) -> Index:
    """The common index of several files. Raises ModelError."""
    index: dict[str, TensorInfo] = {}
    for path in files:
        for name, (dtype, shape) in file_shapes(path).items():
            if name in index:
                raise ModelError(f"{path}: {name} is in {index[name].file.name} too")
            index[name] = TensorInfo(path, dtype, shape)
    return index


def file_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data types and shapes of a file's tensors. Raises ModelError, also for a pickle that could run code."""
    if path.suffix.lower() not in (".gguf", ".safetensors"):
        return pytorch_shapes(path)
    return {one.name: (one.dtype, one.shape) for one in read_weights(path).tensors}


def index_digest(index: Index) -> str:
    """A hash, 16 hexadecimal digits, over names, shapes and data types."""
    lines = [[name, held.dtype, list(held.shape)] for name, held in sorted(index.items())]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]
