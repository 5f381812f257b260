"""Old PyTorch files that are damaged, or hold what cannot be rewritten: one line, never a traceback."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from excise.checkpoint.pytorch_file import pytorch_shapes, read_pytorch
from excise.errors import ModelError


def test_bits_that_are_flipped_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2), "b": torch.ones(3, 2, dtype=torch.bfloat16)}, path)
    sound = path.read_bytes()
    draw, refused = random.Random(17), 0
    for _ in range(400):
        damaged = bytearray(sound)
        for _ in range(draw.choice((1, 1, 4, 30))):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        for read in (read_pytorch, pytorch_shapes):
            refused += 1
            with suppress(ModelError):
                read(path)
                refused -= 1
    # Flips in the numbers, or in what nobody reads, change no name and no shape.
    assert 200 < refused < 800


def test_the_parts_of_a_zip_archive_that_spans_several_disks(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2)}, path)
    content = bytearray(path.read_bytes())
    # The locator of the zip64 record ends in the number of disks.
    content[content.rindex(b"PK\x06\x07") + 16] = 2
    path.write_bytes(content)
    for read in (read_pytorch, pytorch_shapes):
        with pytest.raises(ModelError, match="cut short"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.eye(3).to_sparse()}, "a is stored as .*sparse.*, which is not supported"),
        ({3: torch.zeros(2)}, "holds something other than a table of tensors"),
    ],
)
def test_what_is_no_table_of_plain_tensors(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    with pytest.raises(ModelError, match=message):
        read_pytorch(path)
