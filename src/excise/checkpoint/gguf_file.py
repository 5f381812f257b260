"""GGUF files: reading the positions of tensors, and writing a header with changed types."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, quant_shape_to_byte_shape
from gguf.constants import GGUFEndian

from excise.checkpoint.gguf_lengths import check_lengths
from excise.checkpoint.tensors import ORDINARY, Entry, WeightsFile
from excise.errors import ModelError, translated
from excise.system.files import require_fetched


def open_gguf(path: Path) -> GGUFReader:
    """The gguf package's reader, which maps the file. Raises ModelError for a damaged or truncated file."""
    require_sound(path)
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: damaged GGUF file ({error}); download it again") from error
    if reader.endianess is not GGUFEndian.LITTLE:
        raise ModelError(f"{path}: is written for big-endian machines, which is not supported")
    return reader


def require_sound(path: Path) -> None:
    """Raise ModelError for a Git LFS pointer, and for a file that declares more than it holds."""
    require_fetched(path, ModelError)
    with translated(
        ModelError, f"{path}: damaged GGUF file; download it again", OSError, ValueError
    ):
        check_lengths(path)


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
