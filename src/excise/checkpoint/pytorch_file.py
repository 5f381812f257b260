"""PyTorch weights files (.bin, .pt): the positions of their tensors, read without running pickled code.

Since PyTorch 1.6 the file is an uncompressed zip archive: a pickle that lists the tensors, and one record for
each storage. Loading it with fake tensors and the restricted unpickler gives names, shapes and offsets.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from torch import Tensor

from excise.checkpoint.tensors import NAMES, Entry, WeightsFile
from excise.errors import UNREADABLE, ModelError, translated
from excise.system.files import require_fetched
from excise.undocumented import FakeTensorMode, checkpoint_offset

_CUT_SHORT = (RuntimeError, EOFError, LookupError, OSError, struct.error, *UNREADABLE)
"""torch.load raises these for a truncated pickle or a damaged archive."""
_BLOCK = 1 << 22
_LOCAL_HEADER = 30
"""Bytes of a zip record's header before its name; ends with the lengths of name and extra field."""
_DIRECTORY_ENTRY = 46
"""Bytes of an entry of the central directory before name, extra field and comment."""
_CRC_IN_LOCAL_HEADER, _CRC_IN_DIRECTORY = 14, 16
_HAS_DESCRIPTOR = 0x08
_DESCRIPTOR = b"PK\x07\x08"
"""The optional signature before a checksum that follows the data."""


def read_pytorch(path: Path) -> WeightsFile:
    """The tensors of a PyTorch file.

    Raises ModelError for a damaged file, a file from before PyTorch 1.6, and a pickle of other objects than
    tensors, which could run code.
    """
    require_fetched(path, ModelError)
    if not _is_archive(path):
        raise ModelError(
            f"{path}: not a PyTorch file of version 1.6 or later, or cut short; load it with PyTorch and "
            "save it again, or download it again"
        )
    with FakeTensorMode():
        loaded = _loaded(path, "cpu")
    tensors = sorted(
        (_entry(path, name, tensor) for name, tensor in loaded.items()),
        key=lambda one: (one.start, one.end),
    )
    return WeightsFile(path, path.stat().st_size, tuple(tensors), "pytorch")


def pytorch_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data types (safetensors' names if possible) and shapes of the tensors of a PyTorch file.

    Reads files from before PyTorch 1.6 too, and tensors of any type and strides. Raises ModelError as
    `read_pytorch` does.
    """
    require_fetched(path, ModelError)
    with path.open("rb") as file:
        # A pickle of protocol 2 or later, the format before PyTorch 1.6.
        is_pickle = file.read(1) == b"\x80"
    if not is_pickle and not _is_archive(path):
        raise ModelError(f"{path}: not a PyTorch file, or cut short; download it again")
    return {
        name: (NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in _loaded(path, "meta").items()
    }


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        # An archive in several parts.
        return False


def _loaded(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors, loaded without numbers (meta or fake)."""
    with translated(ModelError, f"{path}: damaged weights file; download it again", *_CUT_SHORT):
        try:
            loaded = torch.load(path, map_location=device, weights_only=True)
        except UnpicklingError as error:
            raise ModelError(
                f"{path}: its pickle holds more than tensors and could run code, so it was not opened; use "
                "the safetensors files of this model"
            ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in loaded.items()
    ):
        raise ModelError(f"{path}: holds something other than a table of tensors")
    return loaded


def _entry(path: Path, name: str, tensor: Tensor) -> Entry:
    if tensor.layout is not torch.strided:
        raise ModelError(f"{path}: {name} is stored as {tensor.layout}, which is not supported")
    storage = tensor.untyped_storage()
    if tensor.dtype not in NAMES or not tensor.is_contiguous():
        raise ModelError(
            f"{path}: {name} is stored as {tensor.dtype} with strides {tensor.stride()}, which is "
            "not supported"
        )
    # torch.load sets the offset under fake tensors.
    offset = checkpoint_offset(storage)
    assert offset is not None
    start = offset + int(tensor.storage_offset()) * tensor.element_size()
    size = tensor.numel() * tensor.element_size()
    return Entry(name, NAMES[tensor.dtype], tuple(tensor.shape), start, start + size)


def update_checksums(path: Path, changed: Iterable[Entry]) -> None:
    """Update the CRC-32 checksums of rewritten zip records.

    PyTorch ignores the checksums; other readers of zip files verify them.
    """
    starts = sorted(one.start for one in changed)
    with zipfile.ZipFile(path) as archive:
        records, place = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        for record in records:
            entry = place
            place += _DIRECTORY_ENTRY + sum(struct.unpack("<HHH", _read(file, entry + 28, 6)))
            names = struct.unpack("<HH", _read(file, record.header_offset + 26, 4))
            start = record.header_offset + _LOCAL_HEADER + sum(names)
            end = start + record.file_size
            if not any(start <= one < end for one in starts):
                continue
            places = [entry + _CRC_IN_DIRECTORY]
            if record.flag_bits & _HAS_DESCRIPTOR:
                places.append(end + len(_DESCRIPTOR) * (_read(file, end, 4) == _DESCRIPTOR))
            else:
                places.append(record.header_offset + _CRC_IN_LOCAL_HEADER)
            crc = 0
            for place_of_block in range(start, end, _BLOCK):
                count = min(_BLOCK, end - place_of_block)
                crc = zlib.crc32(_read(file, place_of_block, count), crc)
            for place_of_crc in places:
                file.seek(place_of_crc)
                file.write(struct.pack("<I", crc))


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
