"""Baked edits: the checkpoint's own tensors rewritten where they lie.

A safetensors shard is a header and a block of raw numbers, and an edited tensor has the size of the
original one. So a shard is copied as it is and the writers' bytes are overwritten in the copy: names,
shapes, data types, order and shards stay, and memory never holds more than one tensor.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from excise.edit.edit import Edit
from excise.edit.layout import Layout, StoredTensor
from excise.edit.matrices import MatrixOperators, parts
from excise.errors import SaveError
from excise.files import new_folder

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_OTHER_WEIGHTS = {".bin", ".pth", ".pt", ".gguf", ".onnx", ".msgpack", ".h5"}
"""Copies of the unedited weights in other formats: copied along, they would be loaded by mistake."""


@dataclass(frozen=True)
class _Location:
    """Where a tensor's numbers lie in a shard. start, end: byte offsets from the file's beginning."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def bake(
    edit: Edit,
    layout: Layout,
    source: Path | Callable[[Path], None],
    destination: Path,
    texts: Mapping[str, str],
) -> None:
    """Write the edited model to the new folder `destination`.

    layout: which stored tensors each writer's parameters are. source: the original checkpoint's folder;
    or, where the original is not safetensors, a function that writes it as safetensors into the folder
    it is given. texts: files to write beside it, by name, such as the README.md.
    Raises SaveError if a writer's tensor is missing or quantised, or the disk is full; `destination`
    then does not exist.
    """
    with new_folder(destination) as folder:
        if isinstance(source, Path):
            copy_checkpoint(source, folder)
        else:
            source(folder)
        edit_in_place(folder, edit, layout)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy the files of a checkpoint, except other copies of its weights, which will not be edited."""
    weights = weight_files(source)
    for path in sorted(source.iterdir()):
        if path.is_dir() or path.name.startswith(".") or path.suffix in _OTHER_WEIGHTS:
            continue
        if path.name.endswith(".bin.index.json") or (
            path.suffix == ".safetensors" and path.name not in weights
        ):
            continue
        # The original's card describes another model now; it stays beside ours.
        name = "ORIGINAL_README.md" if path.name == "README.md" else path.name
        shutil.copyfile(path, folder / name)


def weight_files(folder: Path) -> set[str]:
    """Names of the safetensors files that transformers loads from `folder`.

    Some repositories hold the weights twice, under other names (`consolidated.safetensors`, say).
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return {"model.safetensors"}
    if index.exists():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return {path.name for path in folder.glob("*.safetensors")}


def edit_in_place(folder: Path, edit: Edit, layout: Layout) -> None:
    """Rewrite the writers' tensors in the safetensors files of `folder`. Raises SaveError."""
    tensors = _locate(folder)
    for writer in edit.changed:
        operators = MatrixOperators(edit, writer)
        for stored in layout[writer]:
            _rewrite(_find(tensors, stored.name), stored, operators)


def _rewrite(location: _Location, stored: StoredTensor, operators: MatrixOperators) -> None:
    if location.dtype not in _DTYPES:
        raise SaveError(
            f"{location.file.name}: a writer is stored as {location.dtype}, which cannot be rewritten "
            "in place; save an adapter instead (--adapter DIR)"
        )
    data = np.memmap(
        location.file, mode="r+", offset=location.start, shape=(location.end - location.start,)
    )
    tensor = torch.from_numpy(data).view(_DTYPES[location.dtype]).view(location.shape)
    for part in parts(tensor, stored.axis, bias=stored.bias):
        part.copy_(operators.edited(part))
    data.flush()


def _locate(folder: Path) -> Mapping[str, _Location]:
    """Every tensor of the safetensors files in `folder`, by name."""
    tensors: dict[str, _Location] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[name] = _Location(path, entry["dtype"], tuple(entry["shape"]), start, end)
    if not tensors:
        raise SaveError(f"{folder}: holds no safetensors weights to edit")
    return tensors


def _find(tensors: Mapping[str, _Location], name: str) -> _Location:
    # Checkpoints of base models leave out the leading `model.`, others have it where the model has not.
    for known in (name, name.removeprefix("model."), f"model.{name}"):
        if known in tensors:
            return tensors[known]
    raise SaveError(f"the checkpoint has no tensor {name}; save an adapter instead (--adapter DIR)")
