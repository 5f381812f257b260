"""The other files of a checkpoint's folder, and which of them an edited copy includes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.checkpoint.copies import group_of, is_copy, shapes_of
from excise.checkpoint.read import SUFFIXES, read_weights
from excise.checkpoint.tensors import WeightsFile
from excise.errors import ModelError
from excise.system.json_files import read_json_object

_FOREIGN = re.compile(
    r"((tf_|flax_|rust_)?model)[.\-_].*(?<=\.)(h5|msgpack|ot)|openvino_.*\.bin|.*\.(onnx|onnx_data)"
)
"""Names of weights in formats that excise does not read."""
_LIKE_WEIGHTS = re.compile(
    r"((pytorch_|openvino_)?model|consolidated)[.\-_].*(?<=\.)(safetensors|bin|pth|pt)|.*\.gguf"
)
"""Names of files that count as weights even if they cannot be read (damaged, or from PyTorch before 1.6).

Other .bin and .pt files that cannot be read hold other data, such as training arguments.
"""
_INDEX = ".index.json"


@dataclass(frozen=True)
class Companions:
    """Paths are relative to the folder.

    copied: files that an edited copy includes. weights: those of them that hold tensors. left_out: copies of
    the weights. unread: possible copies of the weights that excise cannot read; left out too. linked: links
    to folders; left out.
    """

    copied: tuple[Path, ...] = ()
    weights: tuple[WeightsFile, ...] = ()
    left_out: tuple[Path, ...] = ()
    unread: tuple[Path, ...] = ()
    linked: tuple[Path, ...] = ()


def find_companions(
    folder: Path,
    weights: Sequence[WeightsFile],
    index: str | None,
    allowed: Callable[[Path], None],
) -> Companions:
    """Examine the files beside `weights`. index: the name of their index.

    allowed: called for each file; raises for a file that must not be copied.
    """
    model_files = {file.path.relative_to(folder).as_posix() for file in weights} | {index}
    paths, linked = _listed(folder, model_files)
    left_out: set[Path] = set()
    unread = {path for path in paths if _FOREIGN.fullmatch(path.name)}
    read: dict[Path, WeightsFile] = {}
    for path in paths:
        if path in unread or path.suffix not in SUFFIXES:
            continue
        allowed(folder / path)
        try:
            read[path] = read_weights(folder / path)
        except ModelError:
            # An unreadable file is copied like any other file, unless its name says that it holds weights.
            if _LIKE_WEIGHTS.fullmatch(path.name):
                unread.add(path)
    model = {name: shape for file in weights for name, shape in shapes_of(file).items()}
    # Names that differ in numbers only: shards of one checkpoint.
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path, file in read.items():
        if file.tensors:
            groups.setdefault(group_of(path), []).append(path)
    for group in groups.values():
        if is_copy(model, [shapes_of(read[path]) for path in group]):
            left_out.update(group)
    gone = left_out | unread
    for path in paths:
        if path.name.endswith(_INDEX) and _names_only(folder / path, gone, folder):
            left_out.add(path)
    copied = tuple(path for path in paths if path not in left_out | unread)
    for path in copied:
        allowed(folder / path)
    return Companions(
        copied,
        tuple(file for path, file in read.items() if path in copied and file.tensors),
        tuple(sorted(left_out)),
        tuple(sorted(unread)),
        linked,
    )


def _listed(
    folder: Path, model_files: Collection[str | None]
) -> tuple[list[Path], tuple[Path, ...]]:
    """Files that do not belong to the model's weights, and links to folders."""
    paths: list[Path] = []
    linked: list[Path] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        # Folders such as .git and .cache belong to the tool that downloaded the model.
        if any(part.startswith(".") for part in inside.parts[:-1]):
            continue
        if path.is_dir():
            if path.is_symlink() and not path.name.startswith("."):
                linked.append(inside)
        elif inside.as_posix() not in model_files:
            paths.append(inside)
    return paths, tuple(linked)


def _names_only(index: Path, gone: Collection[Path], folder: Path) -> bool:
    """True for an index whose files are all left out or missing."""
    try:
        named = read_json_object(index, ModelError)["weight_map"].values()
        there = {(index.parent / str(name)).relative_to(folder) for name in named}
    except (ModelError, ValueError, KeyError, AttributeError):
        return False  # Not an index of weights.
    return all(path in gone or not (folder / path).is_file() for path in there)
