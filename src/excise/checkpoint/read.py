"""Reads the header of a weights file in any format."""

from __future__ import annotations

from pathlib import Path

from excise.checkpoint.pytorch_file import read_pytorch
from excise.checkpoint.tensors import WeightsFile, read_safetensors

SUFFIXES = frozenset((".safetensors", ".bin", ".pt", ".pth", ".gguf"))


def read_weights(path: Path, suffix: str | None = None) -> WeightsFile:
    """The tensors of a weights file. suffix: tells the format, by default the file's own suffix.

    Raises ModelError for a damaged file.
    """
    match (suffix or path.suffix).lower():
        case ".safetensors":
            return read_safetensors(path)
        case ".gguf":
            # Imported here because gguf takes long to import, and few checkpoints need it.
            from excise.checkpoint.gguf_file import read_gguf

            return read_gguf(path)
    return read_pytorch(path)
