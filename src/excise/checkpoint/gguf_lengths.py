"""Checks the lengths that a GGUF file declares, before the gguf package reads it.

The package makes a Python object for each declared element, even if the file does not hold it: a file of a
hundred bytes that declares 2⁶⁰ elements would fill the memory. The format is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by type number. The other types are strings and arrays."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
"""Depth of nested arrays. The format sets no limit; models use one level."""
_MOST_DIMENSIONS = 8


def check_lengths(path: Path) -> None:
    """Raise ValueError if a length does not fit into the file, or the file is not GGUF; OSError."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        file.seek(0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Lengths(data).check()


class _Lengths:
    """Walks through the header: reads lengths, skips values."""

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
