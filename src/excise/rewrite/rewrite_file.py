"""Writes the edited form of one weights file, in order of position and in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from excise.checkpoint.gguf_file import gguf_header
from excise.checkpoint.pytorch_file import update_checksums
from excise.checkpoint.tensors import WeightsFile, safetensors_header
from excise.errors import ModelError
from excise.rewrite.plan import Plan
from excise.rewrite.tensor_data import EditedTensors

BLOCK = 1 << 20
"""Bytes copied or compared at a time: they fit into the processor's cache."""

Advance = Callable[[int], None]
"""Receives the number of bytes that were processed."""


def rewrite_file(plan: Plan, file: WeightsFile, path: Path, advance: Advance) -> None:
    """Write the edited form of `file` under `path`. Raises ModelError if the original is truncated."""
    changed = [(entry, one) for _, entry, one in plan.outputs(file) if one is not None]
    edits = EditedTensors(plan)
    with file.path.open("rb", buffering=0) as source, path.open("wb", buffering=0) as target:
        if plan.keeps_layout(file):
            place = 0
            for entry, rewrite in sorted(changed, key=lambda one: one[0].start):
                if entry.start < place:
                    continue  # A second name of the same numbers, as PyTorch files have for tied weights.
                _copy(source, target, place, entry.start, advance)
                _write(target, edits.of(rewrite)[entry.name], advance)
                place = entry.end
            _copy(source, target, place, file.size, advance)
        else:
            outputs = list(plan.outputs(file))
            tensors = [output for output, _, _ in outputs]
            if file.kind == "gguf":
                header, alignment = gguf_header(file, tensors)
            else:
                header, alignment = safetensors_header(tensors, file.metadata), 1
            _write(target, header, advance)
            for output, entry, change in outputs:
                if change is None:
                    _copy(source, target, entry.start, entry.end, advance)
                else:
                    _write(target, edits.of(change)[output.name], advance)
                _write(target, bytes(-output.size % alignment), advance)
    if file.kind == "pytorch":
        update_checksums(path, [entry for entry, _ in changed])


def read_blocks(file: BinaryIO, start: int, end: int, buffer: bytearray) -> Iterator[memoryview]:
    """Bytes [start, end) of an unbuffered file, through `buffer`. Raises ModelError if it is too short."""
    view = memoryview(buffer)
    file.seek(start)
    while start < end:
        count = file.readinto(view[: min(len(buffer), end - start)])  # type: ignore[attr-defined]
        if not count:
            raise ModelError(f"{file.name}: ended while it was read; download it again")
        yield view[:count]
        start += count


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int, advance: Advance) -> None:
    buffer = bytearray(min(BLOCK, max(0, end - start)))
    for block in read_blocks(source, start, end, buffer):
        _write(target, block, advance)


def _write(target: BinaryIO, data: bytes | bytearray | memoryview, advance: Advance) -> None:
    view = memoryview(data)
    for place in range(0, len(view), BLOCK):
        some = view[place : place + BLOCK]
        written = 0
        while written < len(some):
            written += target.write(some[written:])
        advance(len(some))
