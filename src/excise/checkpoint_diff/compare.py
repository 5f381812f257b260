"""Two checkpoints, tensor by tensor: what differs, by how much, at which rank, and by which operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from excise.checkpoint.index import TensorInfo
from excise.checkpoint.reader import CHUNK, Reader, bits
from excise.checkpoint_diff.difference import Compared, Diff, TensorChange, WriterChange
from excise.checkpoint_diff.layout import Layout, Place
from excise.checkpoint_diff.matrix import Chunk, Pair, change_of
from excise.checkpoint_diff.names import pair_names
from excise.checkpoint_diff.operator import follows, recognise
from excise.checkpoint_diff.rounding import coarser

Progress = Callable[[str, int, int], None]
"""Takes a tensor's name, its number, and how many there are."""
_SMALLEST_MATRIX = 4
"""Fewest rows and columns of a matrix; smaller tensors are kernels of short convolutions."""


def no_progress(name: str, done: int, of: int) -> None:
    """The listener that does nothing."""


def compare_tensors(
    first: Compared, second: Compared, layout: Layout, progress: Progress = no_progress
) -> Diff:
    """Compare two checkpoints, with a few pieces of a tensor in memory.

    layout: of the second checkpoint. progress: called with each tensor's name, its number and the number of
    tensors. Raises ModelError if a file is damaged.
    """
    with Reader(first.index) as before, Reader(second.index) as after:
        names = pair_names(first.index, second.index, before, after)
        changed: list[TensorChange] = []
        pairs: dict[str, list[Pair]] = {}
        for number, (name, former) in enumerate(names.pairs.items()):
            progress(name, number, len(names.pairs))
            entries = first.index[former], second.index[name]
            # Most tensors of an edited model are unchanged; comparing bytes is fastest.
            if _same_bytes(before.pieces(former), after.pieces(name)):
                continue
            sizes = _sizes(before.pieces(former), after.pieces(name))
            if sizes is None:
                continue
            place = layout.get(name)
            pairs[name] = _pairs(_Versions((before, after), (former, name)), entries, place)
            matrices = tuple(map(change_of, pairs[name])) if math.isfinite(sizes[1]) else ()
            dtypes = entries[0].dtype, entries[1].dtype
            changed.append(
                TensorChange(name, former, dtypes, entries[1].shape, *sizes, matrices, place)
            )

        def biases(writer: str) -> list[tuple[Tensor, Tensor]]:
            return [
                (before.read(names.pairs[name]), after.read(name))
                for name, place in layout.items()
                if place.writer == writer and place.parameter.bias and name in names.pairs
            ]

        found = tuple(_writers(changed, pairs, layout, biases))
    return Diff(first, second, names, len(names.pairs) - len(changed), tuple(changed), found)


def _same_bytes(before: Iterator[Tensor], after: Iterator[Tensor]) -> bool:
    return all(
        old.dtype == new.dtype and torch.equal(bits(old), bits(new))
        for old, new in zip(before, after, strict=True)
    )


def _sizes(before: Iterator[Tensor], after: Iterator[Tensor]) -> tuple[float, float, float] | None:
    """Relative norm, largest difference and share of differing numbers; None for equal tensors."""
    square = whole = largest = 0.0
    differing = count = 0
    for old, new in zip(before, after, strict=True):
        count += old.numel()
        # Codes and scales of quantised weights are compared as numbers.
        a, b = (one.to(torch.float32) for one in (old, new))
        change = b - a
        differing += int((change != 0).sum())
        square += float(change.square().sum(dtype=torch.float64))
        whole += float(a.square().sum(dtype=torch.float64))
        # Python's max ignores NaN.
        largest = math.nan if math.isnan(square) else max(largest, float(change.abs().max()))
    if differing == 0:
        return None
    relative = math.sqrt(square / whole) if whole else math.inf
    return relative, largest, differing / count


@dataclass(frozen=True)
class _Versions:
    """A tensor in both checkpoints. readers, names: of the first and of the second checkpoint."""

    readers: tuple[Reader, Reader]
    names: tuple[str, str]

    def read(self, *key: slice) -> list[Tensor]:
        """The part `key` of both versions, float32, without the leading axis of experts."""
        shape = [one.stop - one.start for one in key[-2:]]
        return [
            reader.read(name, *key).to(torch.float32).reshape(shape)
            for reader, name in zip(self.readers, self.names, strict=True)
        ]


def _pairs(
    tensor: _Versions, entries: tuple[TensorInfo, TensorInfo], place: Place | None
) -> list[Pair]:
    """The matrices of a tensor, in order; the residual stream's axis is first where it is known."""
    shape = entries[1].shape
    dtype = coarser(entries[0].dtype, entries[1].dtype)
    if place is not None and place.parameter.bias:
        return []
    if dtype is None or len(shape) not in (2, 3) or min(shape[-2:]) < _SMALLEST_MATRIX:
        return []
    rows, columns = shape[-2:]
    first = rows <= columns if place is None else place.axis == len(shape) - 2
    sides = (rows, columns) if first else (columns, rows)
    fronts: Sequence[tuple[slice, ...]] = (
        [()] if len(shape) == 2 else [(slice(one, one + 1),) for one in range(shape[0])]
    )
    return [Pair(*sides, dtype, partial(_read, tensor, front, sides, first)) for front in fronts]


def _read(
    tensor: _Versions, front: tuple[slice, ...], sides: tuple[int, int], first: bool
) -> Iterator[Chunk]:
    """Columns of one matrix. front: selects the expert. first: whether rows are the stream's axis."""
    d, k = sides
    width = max(1, CHUNK // d)
    for start in range(0, k, width):
        columns = slice(start, min(start + width, k))
        key = (*front, slice(0, d), columns) if first else (*front, columns, slice(0, d))
        parts = tensor.read(*key)
        old, new = parts if first else [part.T.contiguous() for part in parts]
        yield columns, old, new


def _writers(
    changed: Sequence[TensorChange],
    pairs: Mapping[str, Sequence[Pair]],
    layout: Layout,
    biases_of: Callable[[str], list[tuple[Tensor, Tensor]]],
) -> Iterator[WriterChange]:
    """Writers whose every changed matrix an operator explains. pairs: by tensor."""
    by_writer: dict[str, list[TensorChange]] = {}
    for one in changed:
        if one.place is not None and one.place.writer is not None and one.matrices:
            by_writer.setdefault(one.place.writer, []).append(one)
    for writer, tensors in by_writer.items():
        stored = {
            name
            for name, place in layout.items()
            if place.writer == writer and not place.parameter.bias
        }
        if {one.name for one in tensors} != stored:
            continue  # An edit of a writer changes all its experts.
        own = [pair for one in tensors for pair in pairs[one.name]]
        biases = biases_of(writer)
        operator = recognise(own, [each for one in tensors for each in one.matrices], biases)
        if operator is None:
            continue
        dtype = own[0].dtype
        fit = all(follows(operator, *each, dtype) for each in biases) if biases else None
        yield WriterChange(writer, operator, fit)
