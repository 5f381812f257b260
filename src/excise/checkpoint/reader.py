"""Reads a checkpoint's tensors by name, in pieces."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from excise.checkpoint.index import Index
from excise.errors import ModelError, translated

CHUNK = 1 << 24
"""Numbers of a tensor that are in memory at a time: 64 MiB in float32."""
_DAMAGED = (SafetensorError, OSError, RuntimeError, KeyError, pickle.UnpicklingError)


class Reader(ExitStack[None]):
    """Reads parts of tensors; opens each file when it is first needed."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self._index = index
        self._files: dict[Path, Any] = {}
        self.callback(self._files.clear)

    def read(self, name: str, *key: slice) -> Tensor:
        """The part `key` of a tensor, in its own data type. Raises ModelError if the file is damaged."""
        entry = self._index[name]
        what = f"{entry.file}: {name} cannot be read"
        with translated(ModelError, what, *_DAMAGED):
            held = self._file(entry.file)
            whole = not key or not entry.shape
            part: Tensor
            if isinstance(held, Mapping):
                part = held[name] if whole else held[name][key]
            else:
                part = held.get_tensor(name) if whole else held.get_slice(name)[key]
            return part

    def pieces(self, name: str) -> Iterator[Tensor]:
        """All of a tensor, cut along its first axis."""
        shape = self._index[name].shape
        if not shape:
            yield self.read(name)
            return
        rows = max(1, CHUNK // max(1, torch.Size(shape[1:]).numel()))
        for start in range(0, shape[0], rows):
            yield self.read(name, slice(start, min(start + rows, shape[0])))

    def digest(self, name: str) -> bytes:
        """A hash over the numbers of a tensor."""
        found = hashlib.sha256()
        for piece in self.pieces(name):
            found.update(bits(piece).numpy().tobytes())
        return found.digest()

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            if path.suffix.lower() == ".safetensors":
                opened = self.enter_context(safe_open(path, framework="pt"))
            else:
                # Files from before PyTorch 1.6 cannot be mapped.
                mmap = zipfile.is_zipfile(path)
                opened = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            self._files[path] = opened
        return self._files[path]


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, flat."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
