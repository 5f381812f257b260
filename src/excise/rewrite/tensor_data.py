"""Reads, decodes, edits and encodes a stored tensor, one matrix at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from excise.checkpoint.tensors import DTYPES, Entry, WeightsFile, as_tensor, read_bytes
from excise.edits.matrices import edit_in_place, parts, row_lengths, steps_of
from excise.errors import UNREADABLE, ModelError, translated
from excise.operators.operator import Operator
from excise.rewrite.packing.formats import Packing
from excise.rewrite.plan import Plan, Rewrite

Steps = Sequence[tuple[Operator, float]]


class TensorData:
    """A stored tensor in memory. Quantised tensors are decoded one matrix at a time."""

    def __init__(self, rewrite: Rewrite, held: Mapping[str, bytearray] | None = None) -> None:
        """held: bytes that are already in memory, by stored name."""
        self.rewrite = rewrite
        held = held or {}

        def bytes_of(file: WeightsFile, one: Entry) -> bytearray:
            return held[one.name] if one.name in held else read_bytes(file.path, one.start, one.end)

        entry = rewrite.entry
        self.data = bytes_of(rewrite.file, entry)
        self.tensor = as_tensor(self.data, entry.dtype, entry.shape)
        self._scale_data = {
            name: bytes_of(file, one) for name, (file, one) in rewrite.scales.items()
        }
        self._scales = {
            name: as_tensor(data, rewrite.scales[name][1].dtype, rewrite.scales[name][1].shape)
            for name, data in self._scale_data.items()
        }

    def matrices(self) -> Iterator[Tensor]:
        """Each matrix [d, k] or bias [d]: views of plain tensors, float32 copies of quantised tensors."""
        stored, packing = self.rewrite.stored, self.rewrite.packing
        if packing is None:
            yield from parts(self.tensor, stored.axis, bias=stored.bias)
            return
        for codes, scales in self._packed():
            yield self._turned(self._decoded(packing, codes, scales))

    def edit(self, steps: Iterator[Steps]) -> dict[str, bytearray]:
        """The edited bytes by stored name: of the tensor, and of its scales. Overwrites the data in memory.

        steps: the operators of each matrix.
        """
        rewrite = self.rewrite
        packing, repacking, output = rewrite.packing, rewrite.repacking, rewrite.output
        if packing is None:
            for part in self.matrices():
                edit_in_place(part, next(steps))
            return {output.name: self.data}
        # With an unchanged format, the codes are overwritten in place.
        data = self.data if output == rewrite.entry else bytearray(output.size)
        result = as_tensor(data, output.dtype, output.shape)
        rng = self._rng()
        for (codes, scales), there in zip(self._packed(), self._each(result), strict=True):
            values = self._decoded(packing, codes, scales)
            edit_in_place(self._turned(values), next(steps))
            if repacking is None:
                there.copy_(values.T if packing.transposed else values)
            else:
                there.copy_(repacking.encode(values, codes, scales, rng))
        changed_scales = {
            one.name: self._scale_data[key] for key, one in rewrite.changed_scales.items()
        }
        return {output.name: data, **changed_scales}

    def sample(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """The first matrix of a quantised tensor, edited: exact, and as stored; float32.

        Overwrites the data in memory. steps: the operators of this matrix.
        """
        packing, repacking = self.rewrite.packing, self.rewrite.repacking
        assert packing is not None
        codes, scales = next(self._packed())
        values = self._decoded(packing, codes, scales)
        edit_in_place(self._turned(values), steps)
        if repacking is None:
            return values, values.to(DTYPES[self.rewrite.output.dtype]).to(torch.float32)
        wanted = values.clone()
        return wanted, repacking.decode(
            repacking.encode(values, codes, scales, self._rng()), scales
        )

    def _decoded(self, packing: Packing, codes: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """One decoded matrix. Raises ModelError if codes and scales do not fit together."""
        where = f"{self.rewrite.file.path}: {self.rewrite.entry.name} cannot be unpacked"
        with translated(ModelError, where, RuntimeError, *UNREADABLE):
            return packing.decode(codes, scales)

    def _rng(self) -> torch.Generator:
        # Seeded by the tensor's name, so that the result is reproducible.
        return torch.Generator().manual_seed(zlib.crc32(self.rewrite.entry.name.encode()))

    def _turned(self, values: Tensor) -> Tensor:
        """A decoded matrix, transposed to [d, k] if necessary."""
        packing, stored = self.rewrite.packing, self.rewrite.stored
        columns = stored.axis == len(stored.shape) - 1
        return values.T if columns != (packing is not None and packing.transposed) else values

    def _packed(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        if len(self.rewrite.stored.shape) == 2:
            yield self.tensor, self._scales
            return
        for index, codes in enumerate(self._each(self.tensor)):
            yield codes, {name: scale[index] for name, scale in self._scales.items()}

    def _each(self, tensor: Tensor) -> Iterator[Tensor]:
        """The part of each matrix; experts are on the leading axis."""
        yield from [tensor] if len(self.rewrite.stored.shape) == 2 else tensor


class EditedTensors:
    """The edited bytes of a plan's tensors, computed on demand.

    The last result with scales is cached, because most files store codes and scales next to each other.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last: tuple[Rewrite, dict[str, bytearray]] | None = None

    def of(self, rewrite: Rewrite) -> Mapping[str, bytearray]:
        """The result of `TensorData.edit`."""
        if self._last is not None and self._last[0] is rewrite:
            return self._last[1]
        self._last = None
        made = TensorData(rewrite).edit(steps_for(self._plan, rewrite))
        if len(made) > 1:
            self._last = rewrite, made
        return made


def steps_for(plan: Plan, rewrite: Rewrite) -> Iterator[Steps]:
    """The operators of each matrix or bias of a stored tensor, in order."""
    own = rewrite.writer in plan.edit.per_matrix
    for number in range(rewrite.first, rewrite.first + rewrite.count):
        norms = row_lengths(_matrix(plan, rewrite.writer, number)) if own else None
        yield steps_of(plan.edit, rewrite.writer, norms)


def rounding_of(plan: Plan) -> float:
    """‖W' as stored − W'‖ / ‖W'‖ (Frobenius) of the first quantised matrix that a plan rewrites."""
    first = next(one for one in plan.rewrites.values() if one.packing is not None)
    wanted, stored = TensorData(first).sample(next(steps_for(plan, first)))
    off = float(torch.linalg.vector_norm(stored.sub_(wanted)))
    return off / max(float(torch.linalg.vector_norm(wanted)), torch.finfo(torch.float32).tiny)


def _matrix(plan: Plan, writer: str, number: int) -> Tensor:
    for one in plan.rewrites.values():
        if one.writer == writer and not one.stored.bias and 0 <= number - one.first < one.count:
            for index, matrix in enumerate(TensorData(one).matrices()):
                if index == number - one.first:
                    return matrix
    raise AssertionError(f"{writer} has no matrix {number}")
