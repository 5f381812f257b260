"""Decides from the headers of files whether they are a second copy of a checkpoint's weights.

Repositories often hold the weights twice: in the maker's own format (`original/`, `consolidated.*`), in
older formats, quantised. An edited checkpoint must not include them, because they are the unedited model.
Other files hold further tensors, such as a draft head, an adapter or an image projector.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from excise.checkpoint.tensors import ORDINARY, WeightsFile, stored_name

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
_DRAFT = re.compile(r"(^|[._])(mtp|nextn|eagle\d*|medusa|draft|hydra)(?![a-z])", re.IGNORECASE)
"""Names of draft heads for speculative decoding."""


@dataclass(frozen=True)
class Shape:
    """A tensor. ordinary: whether it holds plain floating-point numbers. shape: dequantised if known."""

    ordinary: bool
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of elements."""
        return prod(self.shape)


Shapes = Mapping[str, Shape]


def shapes_of(file: WeightsFile) -> dict[str, Shape]:
    """The tensors of a file by name."""
    found: dict[str, Shape] = {}
    for one in file.tensors:
        shape = one.shape
        if file.kind == "gguf" and not one.is_ordinary:
            # Imported here because gguf takes long to import, and few checkpoints need it.
            from gguf import GGMLQuantizationType, quant_shape_from_byte_shape

            shape = tuple(quant_shape_from_byte_shape(shape, GGMLQuantizationType[one.dtype]))
        found[one.name] = Shape(one.dtype in ORDINARY, shape)
    return found


def is_copy(model: Shapes, files: Sequence[Shapes]) -> bool:
    """True if the files of one set hold a second copy of the model's weights and nothing else.

    That is so if all their tensors have names of the model, or if, with other names or quantised, they have
    the model's number of layers and its vocabulary. A tensor with a name of the model and another shape
    belongs to another model. Files that also hold other tensors are not a copy.
    """
    held = [(name, shape) for one in files for name, shape in one.items()]
    if not held:
        return False
    enough = _layers(name for name, _ in held) >= _depth(model)
    shared = {name: stored_name(name, model) for name, _ in held}
    plain = 0
    for name, shape in held:
        own = shared[name]
        if own is None or not (shape.ordinary and model[own].ordinary):
            continue
        if shape.shape != model[own].shape:
            return False
        # Norms stay plain where matrices are packed.
        plain += len(shape.shape) > 1 and _NUMBER.search(name) is not None
    if all(own == name or (own is not None and enough) for name, own in shared.items()):
        return True
    # Plain layers of the model and further tensors, such as a draft head, are not a copy.
    return enough and not plain and _has_vocabulary(model, held)


def group_of(path: Path) -> tuple[Path, str]:
    """A key that the files of one set share: their folder, and their name without numbers."""
    return path.parent, re.sub(r"\d+", "#", path.name)


def draft_tensors(names: Collection[str], layers: int) -> list[str]:
    """The tensors that belong to a draft head, by name or by a layer number after the last layer.

    layers: the model's number of layers; 0 if unknown. Vision towers count their layers separately.
    """
    stacks = _stacks(name for name in names if re.search(r"(^|\.)layers\.\d", name))
    deepest = max(stacks, key=lambda start: len(stacks[start]), default=None)

    def behind(name: str) -> bool:
        number = _NUMBER.search(name)
        return bool(
            number and layers and name[: number.start()] == deepest and int(number[0]) >= layers
        )

    return [name for name in names if _DRAFT.search(name) or behind(name)]


def _stacks(names: Iterable[str]) -> dict[str, set[int]]:
    """Layer numbers by the prefix of the name before them: the first number in a name."""
    found: dict[str, set[int]] = {}
    for name in names:
        if number := _NUMBER.search(name):
            found.setdefault(name[: number.start()], set()).add(int(number.group()))
    return found


def _layers(names: Iterable[str]) -> int:
    return max(map(len, _stacks(names).values()), default=0)


def _depth(model: Shapes) -> int:
    """Number of layers of the model's largest stack; a vision tower may have more, but smaller layers."""
    stacks = _stacks(model)
    sizes = {
        start: sum(shape.count for name, shape in model.items() if name.startswith(start))
        for start in stacks
    }
    return len(stacks[max(sizes, key=sizes.__getitem__)]) if sizes else 0


def _has_vocabulary(model: Shapes, held: Sequence[tuple[str, Shape]]) -> bool:
    """True if `held` has a tensor as large as the model's largest tensor outside its layers.

    Shards with one name in several files, as tensor parallelism makes them, are added up.
    """
    outside = [shape.count for name, shape in model.items() if not _NUMBER.search(name)]
    totals: dict[str, int] = {}
    for name, shape in held:
        totals[name] = totals.get(name, 0) + shape.count
    return bool(outside) and max(outside) in totals.values()
