"""Two checkpoints, tensor by tensor: what differs, by how much, at which rank, and by which operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
            pairs[name] = _pairs((before, after), (former, name), entries, place)
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


def _pairs(
    readers: tuple[Reader, Reader],
    names: tuple[str, str],
    entries: tuple[TensorInfo, TensorInfo],
    place: Place | None,
) -> list[Pair]:
    """The matrices of a tensor, in order; the residual stream's axis is first where it is known.

    readers, names, entries: of the first and of the second checkpoint.
    """
    shape = entries[1].shape
    dtype = coarser(entries[0].dtype, entries[1].dtype)
    if place is not None and place.parameter.bias:
        return []
    if dtype is None or len(shape) not in (2, 3) or min(shape[-2:]) < _SMALLEST_MATRIX:
        return []
    rows, columns = shape[-2:]
    first = rows <= columns if place is None else place.axis == len(shape) - 2
    d, k = (rows, columns) if first else (columns, rows)
    width = max(1, CHUNK // d)

    def read(*expert: slice) -> Iterator[Chunk]:
        for start in range(0, k, width):
            some = slice(start, min(start + width, k))
            key = (slice(0, d), some) if first else (some, slice(0, d))
            sizes = [one.stop - one.start for one in key]
            old, new = (
                reader.read(name, *expert, *key).to(torch.float32).reshape(sizes)
                for reader, name in zip(readers, names, strict=True)
            )
            yield (some, old, new) if first else (some, old.T.contiguous(), new.T.contiguous())

    if len(shape) == 2:
        return [Pair(d, k, dtype, read)]
    return [Pair(d, k, dtype, partial(read, slice(one, one + 1))) for one in range(shape[0])]


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
