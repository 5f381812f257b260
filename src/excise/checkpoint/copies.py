"""Whether files beside a checkpoint hold its weights once more, told by the tensors that their headers name.

Repositories carry weights twice: in the maker's own format (`original/`, `consolidated.*`), in older ones,
quantised. An edited copy must not take those along, because loaded by mistake they are the original model.
They also carry what the model's files do not hold: a draft head, an adapter, a projector of images.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from excise.checkpoint.names import stored_name
from excise.checkpoint.tensors import ORDINARY, WeightsFile

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
_DRAFT = re.compile(r"(^|[._])(mtp|nextn|eagle\d*|medusa|draft|hydra)(?![a-z])", re.IGNORECASE)
"""Names of heads that propose several tokens at once, for speculative decoding."""


@dataclass(frozen=True)
class Shape:
    """A tensor. ordinary: whether it is plain floating-point numbers. shape: unpacked where that is known."""

    ordinary: bool
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


Shapes = Mapping[str, Shape]


def shapes_of(file: WeightsFile) -> dict[str, Shape]:
    """The tensors of a file by name."""
    found: dict[str, Shape] = {}
    for one in file.tensors:
        shape = one.shape
        if file.kind == "gguf" and not one.is_ordinary:
            # The package takes a while to import, and few checkpoints have such a file beside them.
            from gguf import GGMLQuantizationType, quant_shape_from_byte_shape

            shape = tuple(quant_shape_from_byte_shape(shape, GGMLQuantizationType[one.dtype]))
        found[one.name] = Shape(one.dtype in ORDINARY, shape)
    return found


def is_copy(model: Shapes, files: Sequence[Shapes]) -> bool:
    """True if the files of one set hold nothing but the model's weights once more.

    So it is if all their tensors have names of the model's; or, under other names or packed, if they have as
    many layers as the model and its vocabulary. Tensors of the model's names and of another shape are another
    model's. What holds the model's tensors beside others is no copy: it is taken along.
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
    # Names of its own beside the model's layers as they are: a draft head in the same file, say.
    return enough and not plain and _has_vocabulary(model, held)


def group_of(path: Path) -> tuple[Path, str]:
    """What files of one set have in common: their folder, and their name but for numbers."""
    return path.parent, re.sub(r"\d+", "#", path.name)


def draft_tensors(names: Collection[str], layers: int) -> list[str]:
    """Those of a checkpoint's tensors that belong to a draft head: by name, or behind the last layer.

    layers: how many the model has; 0 if it is not known. Towers for images count layers of their own.
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
    """Layers' numbers by what stands in front of them: the first number of a name counts layers."""
    found: dict[str, set[int]] = {}
    for name in names:
        if number := _NUMBER.search(name):
            found.setdefault(name[: number.start()], set()).add(int(number.group()))
    return found


def _layers(names: Iterable[str]) -> int:
    return max(map(len, _stacks(names).values()), default=0)


def _depth(model: Shapes) -> int:
    """How many layers the largest stack of the model has; a tower for images may have more, smaller ones."""
    stacks = _stacks(model)
    sizes = {
        start: sum(shape.count for name, shape in model.items() if name.startswith(start))
        for start in stacks
    }
    return len(stacks[max(sizes, key=sizes.__getitem__)]) if sizes else 0


def _has_vocabulary(model: Shapes, held: Sequence[tuple[str, Shape]]) -> bool:
    """True if the held tensors have one as large as the model's largest outside of its layers.

    Parts of it under one name in several files, as tensor parallelism cuts it, count together.
    """
    outside = [shape.count for name, shape in model.items() if not _NUMBER.search(name)]
    totals: dict[str, int] = {}
    for name, shape in held:
        totals[name] = totals.get(name, 0) + shape.count
    return bool(outside) and max(outside) in totals.values()
