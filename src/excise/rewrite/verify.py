"""Verifies written files: unedited bytes equal the original's, and edited numbers equal a reference.

The reference is computed from the original file, with vᵀ W in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from excise.checkpoint.read import read_weights
from excise.checkpoint.tensors import ORDINARY, Entry, WeightsFile, read_bytes
from excise.edits.matrices import blocks_of
from excise.errors import SaveError
from excise.rewrite.plan import Plan, Rewrite
from excise.rewrite.rewrite_file import BLOCK, Advance, read_blocks
from excise.rewrite.tensor_data import EditedTensors, Steps, TensorData, steps_for

_LEAST_KEPT = 0.5
"""Share of an edit that must survive quantisation."""
_FEW = 4096
"""Fewest numbers for which that share is checked; below, it is random."""


@dataclass
class Kept:
    """How much of an edit survived quantisation. wanted: ‖ΔW‖² of the operator; got: ⟨ΔW as written, ΔW⟩."""

    wanted: float = 0.0
    got: float = 0.0
    numbers: int = 0

    @property
    def share(self) -> float:
        """1 if the whole edit survived."""
        return self.got / self.wanted if self.wanted else 1.0


def verify_file(plan: Plan, file: WeightsFile, path: Path, kept: Kept, advance: Advance) -> None:
    """Compare the file written under `path` with its original. Raises SaveError that names the tensor.

    kept: sums over quantised tensors, which are added to.
    """
    written = read_weights(path, file.path.suffix)
    found = {one.name: one for one in written.tensors}
    edits = EditedTensors(plan)
    expected = {output.name: (output, entry, one) for output, entry, one in plan.outputs(file)}
    if found.keys() != expected.keys():
        raise _wrong(path, "tensors", sorted(found.keys() ^ expected.keys())[0])
    with file.path.open("rb", buffering=0) as original, path.open("rb", buffering=0) as copy:
        for name, (output, entry, rewrite) in expected.items():
            there = found[name]
            if (there.dtype, there.shape) != (output.dtype, output.shape):
                raise _wrong(path, "type or shape of", name)
            if rewrite is not None:
                _check_edited(plan, edits, rewrite, written, there, kept)
                advance(there.size)
            elif not _shared(entry, file, plan):
                if not _equal(original, entry.start, copy, there.start, there.size):
                    raise _wrong(path, "numbers of", name)
                advance(there.size)


def same_bytes(one: Path, other: Path) -> bool:
    """True if two files have the same content."""
    size = one.stat().st_size
    if other.stat().st_size != size:
        return False
    with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
        return _equal(first, 0, second, 0, size)


def _equal(one: BinaryIO, start: int, other: BinaryIO, other_start: int, size: int) -> bool:
    mine, theirs = bytearray(BLOCK), bytearray(BLOCK)
    blocks = zip(
        read_blocks(one, start, start + size, mine),
        read_blocks(other, other_start, other_start + size, theirs),
        strict=True,
    )
    # Whole buffers, which is fastest: behind a short block, both hold the same earlier block.
    return all(mine == theirs for _ in blocks)


def require_kept(kept: Kept, packing: str | None) -> None:
    """Raise SaveError if quantisation undid the edit. packing: in words."""
    if kept.numbers >= _FEW and kept.share < _LEAST_KEPT:
        raise SaveError(
            f"only {kept.share:.0%} of the edit survives in {packing}; choose packed (--packed plain), or "
            "save an adapter: to_peft (--adapter DIR)"
        )


def _wrong(path: Path, what: str, name: str) -> SaveError:
    return SaveError(
        f"{path.name}: {what} {name} are wrong after writing; the disk or the memory may be faulty; nothing "
        "was left behind"
    )


def _shared(entry: Entry, file: WeightsFile, plan: Plan) -> bool:
    """True if an edited tensor shares the bytes, as tied tensors do in PyTorch files."""
    return file.kind == "pytorch" and any(
        one.file is file and one.entry.start < entry.end and entry.start < one.entry.end
        for one in plan.companion_weights.get(file.path, plan.rewrites).values()
    )


def _check_edited(
    plan: Plan,
    edits: EditedTensors,
    rewrite: Rewrite,
    written: WeightsFile,
    there: Entry,
    kept: Kept,
) -> None:
    held: dict[str, bytearray] = {}
    if rewrite.repacking is not None:
        made = edits.of(rewrite)
        if read_bytes(written.path, there.start, there.end) != made[there.name]:
            what = "codes" if there.name == rewrite.output.name else "scales"
            raise _wrong(written.path, f"{what} of", there.name)
        if there.name != rewrite.output.name:
            return
        # Scales may be in a file that is not written yet, so the computed bytes are used.
        held = dict(made)
    after = TensorData(rewrite.written({there.name: (written, there)}), held)
    pairs = zip(
        TensorData(rewrite).matrices(), after.matrices(), steps_for(plan, rewrite), strict=True
    )
    for old, new, steps in pairs:
        columns = zip(blocks_of(old), blocks_of(new), strict=True)
        for old_columns, new_columns in columns:
            wanted, slack = _reference(old_columns, steps)
            if rewrite.repacking is None:
                type_ = torch.finfo(ORDINARY[there.dtype])
                off = new_columns.to(torch.float32).sub_(wanted).abs_()
                off.sub_(wanted.abs_(), alpha=type_.eps)
                slack = slack + type_.smallest_normal * type_.eps
                if not bool((off.amax(0) <= slack).all()):
                    raise _wrong(written.path, "edited numbers of", there.name)
            else:
                change = wanted.sub_(old_columns)
                kept.wanted += float(change.square().sum(dtype=torch.float64))
                kept.got += float((new_columns - old_columns).mul_(change).sum(dtype=torch.float64))
                kept.numbers += change.numel()


def _reference(columns: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """W − α u (vᵀ W) of some columns, vᵀ W in float64; and the largest error of float32 for each column."""
    values = columns.to(torch.float32)
    unit = torch.finfo(torch.float32).eps
    slack = unit * values.abs().amax(0)
    for operator, strength in steps:
        double = values.to(torch.float64)
        amount = operator.v.to(torch.float64) @ double
        # |fl(vᵀw) − vᵀw| ≤ d ε ‖v‖ ‖w‖ (Higham 2002, section 3.1), and rounding of the subtraction.
        lengths = torch.linalg.vector_norm(values, dim=0) * torch.linalg.vector_norm(operator.v)
        off = len(operator.u) * unit * lengths + 2 * unit * amount.abs()
        slack = slack + abs(strength) * operator.u.abs().max() * off
        taken = (-strength * amount).to(torch.float32)
        change = operator.u * taken if values.dim() == 1 else torch.outer(operator.u, taken)
        values = change.add_(values)
    return values, slack
