"""GGUF files: reading the positions of tensors, and writing a header with changed types.

The lengths that a file declares are checked before the gguf package reads it: the package makes a Python
object for each declared element, even if the file does not hold it, so that a file of a hundred bytes that
declares 2⁶⁰ elements would fill the memory. The format is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, quant_shape_to_byte_shape
from gguf.constants import GGUFEndian

from excise.checkpoint.tensors import ORDINARY, Entry, WeightsFile
from excise.errors import UNREADABLE, ModelError, translated
from excise.system.files import require_fetched

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by type number. The other types are strings and arrays."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
"""Depth of nested arrays. The format sets no limit; models use one level."""
_MOST_DIMENSIONS = 8
_DAMAGED = "damaged GGUF file; download it again"


def open_gguf(path: Path) -> GGUFReader:
    """The gguf package's reader, which maps the file. Raises ModelError for a damaged or truncated file."""
    require_sound(path)
    with translated(ModelError, f"{path}: {_DAMAGED}", OSError, *UNREADABLE):
        reader = GGUFReader(path)
    if reader.endianess is not GGUFEndian.LITTLE:
        raise ModelError(f"{path}: is written for big-endian machines, which is not supported")
    return reader


def require_sound(path: Path) -> None:
    """Raise ModelError for a Git LFS pointer, and for a file that declares more than it holds."""
    require_fetched(path, ModelError)
    with translated(ModelError, f"{path}: {_DAMAGED}", OSError, ValueError):
        _check_lengths(path)


def read_gguf(path: Path) -> WeightsFile:
    """The tensors of a GGUF file. Raises ModelError if it is damaged."""
    tensors = sorted(
        (
            Entry(
                one.name,
                one.tensor_type.name,
                _stored_shape(one.shape.tolist(), one.tensor_type),
                int(one.data_offset),
                int(one.data_offset + one.n_bytes),
            )
            for one in open_gguf(path).tensors
        ),
        key=lambda one: (one.start, one.end),
    )
    return WeightsFile(path, path.stat().st_size, tuple(tensors), "gguf")


def _stored_shape(dimensions: list[int], kind: GGMLQuantizationType) -> tuple[int, ...]:
    """Rows before columns; the last axis of quantised tensors counts bytes."""
    shape = tuple(reversed(dimensions))
    return shape if kind.name in ORDINARY else tuple(quant_shape_to_byte_shape(shape, kind))


def gguf_header(file: WeightsFile, tensors: Sequence[Entry]) -> tuple[bytes, int]:
    """A header for `tensors` in place of those of `file`, and the alignment of tensors.

    The metadata are copied byte for byte; types and offsets are new.
    """
    reader = open_gguf(file.path)
    alignment = int(reader.alignment)
    outputs = {one.name: one for one in tensors}
    offsets: dict[str, int] = {}
    place = 0
    for one in tensors:
        offsets[one.name] = place
        place += one.size + -one.size % alignment
    # The entries follow the metadata, in an order of their own.
    first = min(one.field.offset for one in reader.tensors)
    with file.path.open("rb") as source:
        head = bytearray(source.read(first))
    for one in sorted(reader.tensors, key=lambda one: int(one.field.offset)):
        name = one.name.encode()
        dimensions = one.shape.tolist()
        head += struct.pack("<Q", len(name)) + name
        head += struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        kind = GGMLQuantizationType[outputs[one.name].dtype]
        head += struct.pack("<IQ", kind, offsets[one.name])
    return bytes(head) + bytes(-len(head) % alignment), alignment


def _check_lengths(path: Path) -> None:
    """Raise ValueError if a length does not fit into the file, or the file is not GGUF; OSError."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        file.seek(0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Lengths(data).check()


class _Lengths:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._place = data, 4

    def check(self) -> None:
        """Check the whole header. Raises ValueError."""
        version = self._number("I")
        if version & 0xFFFF == 0:
            return  # A big-endian file: `open_gguf` reports it.
        tensors, entries = self._number("Q"), self._number("Q")
        self._require(entries, 13)
        self._require(tensors, 24)
        for _ in range(entries):
            self._string()
            self._value(self._number("I"), 0)
        for _ in range(tensors):
            self._string()
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            self._skip(8 * dimensions + 12)

    def _value(self, kind: int, depth: int) -> None:
        if kind in _SCALARS:
            self._skip(_SCALARS[kind])
        elif kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth < _DEEPEST:
            element, count = self._number("I"), self._number("Q")
            if element in _SCALARS:
                self._skip(count * _SCALARS[element])
                return
            self._require(count, 8)
            for _ in range(count):
                self._value(element, depth + 1)
        else:
            raise ValueError(f"it holds a value of the unknown type {kind}")

    def _string(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, form: str) -> int:
        place, size = self._place, struct.calcsize(f"<{form}")
        self._skip(size)
        (number,) = struct.unpack_from(f"<{form}", self._data, place)
        return int(number)

    def _skip(self, count: int) -> None:
        self._require(count, 1)
        self._place += count

    def _require(self, count: int, least: int) -> None:
        """Raise ValueError unless `count` items of at least `least` bytes fit into the rest of the file."""
        if count * least > len(self._data) - self._place:
            raise ValueError(f"it ends at byte {len(self._data)}, before the data that it declares")
