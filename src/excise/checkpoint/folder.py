"""A checkpoint's folder: the weights that transformers loads, the other files, and damage."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from excise.checkpoint.companions import Companions, find_companions
from excise.checkpoint.copies import draft_tensors
from excise.checkpoint.read import read_weights
from excise.checkpoint.tensors import Entry, WeightsFile, stored_name
from excise.errors import ModelError, SaveError, listed, translated
from excise.system.json_files import read_json_object

RECORD = "reproduce.json"
"""What a model was made from, written beside it by excise."""
_SETS = (
    ("model.safetensors", "model.safetensors.index.json", "*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin"),
)
"""A single file, the index of several files, and a pattern; preferred formats first."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. index: the name of its index file, None for a single file."""

    folder: Path
    files: tuple[WeightsFile, ...]
    index: str | None
    companions: Companions

    @cached_property
    def tensors(self) -> Mapping[str, tuple[WeightsFile, Entry]]:
        """Every tensor by name."""
        return {one.name: (file, one) for file in self.files for one in file.tensors}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_json_object(self.folder / "config.json", ModelError)

    @cached_property
    def drafts(self) -> list[str]:
        """Names of tensors of a draft head, which the model's forward pass does not use."""
        text = self.config.get("text_config")
        counts = [
            found
            for config in (self.config, text)
            if isinstance(config, dict)
            and isinstance(found := config.get("num_hidden_layers"), int)
        ]
        return draft_tensors(self.tensors, max(counts, default=0))

    @cached_property
    def absent_code(self) -> list[str]:
        """Python files of remote code that config.json names and that are not in the folder."""
        named = self.config.get("auto_map")
        classes = named.values() if isinstance(named, dict) else ()
        # "module.Class"; a name with -- in it belongs to another repository.
        modules = {one.partition(".")[0] for one in classes if isinstance(one, str)}
        files = sorted(f"{one}.py" for one in modules if "--" not in one)
        return [one for one in files if not (self.folder / one).is_file()]

    def named(self, name: str) -> str | None:
        """The stored name of a parameter of the model, None if the checkpoint lacks it."""
        return stored_name(name, self.tensors)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a checkpoint's files.

    Raises ModelError for damaged or missing files and for an index that does not fit them, SaveError for
    a symbolic link that leads out of the folder.
    """
    names, index = weight_files(folder)
    for name in names:
        # Checked before the file is opened.
        require_inside(folder, folder / name)
    files = tuple(read_weights(folder / name) for name in names)
    if index is not None:
        _check_index(folder / index, files)
    companions = find_companions(folder, files, index, lambda path: require_inside(folder, path))
    return Checkpoint(folder, files, index, companions)


def weight_files(folder: Path) -> tuple[list[str], str | None]:
    """The weights files that transformers loads from `folder`, in order, and the name of their index.

    Raises ModelError if there are no weights, or if the index names a missing file.
    """
    names, index = first_set(sorted(path.name for path in folder.glob("*")))
    if index is not None:
        return _named_by(folder / index), index
    if not names:
        raise ModelError(f"{folder}: holds no weights (*.safetensors or pytorch_model*.bin)")
    return names, None


def first_set(names: Sequence[str]) -> tuple[list[str], str | None]:
    """The weights that transformers loads of a folder's files `names`, or the name of their index."""
    for single, index, _ in _SETS:
        if single in names:
            return [single], None
        if index in names:
            return [], index
    return next((found for *_, each in _SETS if (found := fnmatch.filter(names, each))), []), None


def _named_by(index: Path) -> list[str]:
    names = index_names(index)
    for name in names:
        with translated(ModelError, f"{index}: names an impossible file", OSError, ValueError):
            there = (index.parent / name).is_file()
        if not there:
            raise ModelError(
                f"{index}: names {name}, which is missing; download the checkpoint again"
            )
    return names


def index_names(index: Path) -> list[str]:
    """The files that an index names, sorted, existing or not. Raises ModelError."""
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
            raise ModelError(f"{index}: names {name}, which is not a file of this folder")
    return names


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json_object(index, ModelError).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ModelError(f"{index}: has no weight_map; download the checkpoint again")
    return found


def _check_index(index: Path, files: Sequence[WeightsFile]) -> None:
    held = {(one.name, file.path.name) for file in files for one in file.tensors}
    absent = [name for name, file in _weight_map(index).items() if (name, file) not in held]
    if absent:
        raise ModelError(
            f"{index}: names tensors that its files do not hold: {listed(absent, 1)}; download the "
            "checkpoint again"
        )


def require_inside(folder: Path, path: Path) -> None:
    """Raise SaveError for a link out of the folder. Links of the hub's cache to its blobs are allowed."""
    target = path.resolve()
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        allowed.append(folder.resolve().parent.parent / "blobs")
    if not any(target.is_relative_to(one) for one in allowed):
        raise SaveError(
            f"{path}: is a symbolic link out of the folder, to {target}; put the file itself there"
        )
    if not target.is_file():
        raise ModelError(f"{path}: is a symbolic link to nothing; download the checkpoint again")
