"""What a comparison of two checkpoints found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from excise.checkpoint_diff.checkpoint import Compared
from excise.checkpoint_diff.layout import Place
from excise.checkpoint_diff.matrix import MatrixChange
from excise.checkpoint_diff.names import Names
from excise.checkpoint_diff.operator import FoundOperator
from excise.edits.edit import Edit
from excise.system.paths import expanded

_PARALLEL = 0.99


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs. name: in the second checkpoint; former: in the first.

    relative: ‖B − A‖ / ‖A‖, Frobenius, infinite if A is zero. largest: of |B − A|; not a number if one in the
    tensor is none. share: of its numbers that differ. matrices: the change of each matrix in it, oriented as
    `place` says; none for vectors, and where numbers are packed. place: what it is in the model, if known.
    """

    name: str
    former: str
    dtypes: tuple[str, str]
    shape: tuple[int, ...]
    relative: float
    largest: float
    share: float
    matrices: tuple[MatrixChange, ...]
    place: Place | None

    @property
    def rank(self) -> int | None:
        """The highest rank among its matrices, None if it has none."""
        return max((each.rank for each in self.matrices), default=None)

    @property
    def more(self) -> bool:
        """True if the rank is only known to be larger."""
        return any(each.more for each in self.matrices)

    @property
    def full(self) -> bool:
        """True if the rank is that of a matrix without any structure."""
        return self.rank is not None and self.rank >= min(self.shape[-2:])


@dataclass(frozen=True)
class WriterChange:
    """A writer that was edited by an operator. biases: True if its biases follow it, None without any."""

    writer: str
    operator: FoundOperator
    biases: bool | None


@dataclass(frozen=True)
class Diff:
    """All that tells two checkpoints apart.

    first, second: the checkpoints. names: tensors that only one of them has, or under another name, type or
    shape. same: number of tensors that are equal number by number. changed: the others. writers: those whose
    changes one operator explains. model: the second one's, without weights; where it could not be built it is
    None, writers are not looked for, and `why_not` says why.
    """

    first: Compared
    second: Compared
    names: Names
    same: int
    changed: tuple[TensorChange, ...]
    writers: tuple[WriterChange, ...]
    model: PreTrainedModel | None = None
    why_not: str = ""

    @property
    def identical(self) -> bool:
        """True if nothing differs but the cut into files."""
        return not (self.changed or self.names.differ)

    @property
    def moved(self) -> list[TensorChange]:
        """Tensors that differ by more than rounding; vectors whatever they differ by."""
        return [one for one in self.changed if one.rank != 0]

    @property
    def unexplained(self) -> list[TensorChange]:
        """Those of them that no operator on a writer explains."""
        explained = {one.writer for one in self.writers}
        return [one for one in self.moved if one.place is None or one.place.writer not in explained]

    def edit(self) -> Edit:
        """The difference as an edit of the first checkpoint.

        Raises SaveError if anything differs that no operator on a writer explains.
        """
        from excise.checkpoint_diff.undo import recovered_edit

        return recovered_edit(self)

    def save_undo(self, folder: str | Path) -> None:
        """Write a peft adapter that turns the second checkpoint into the first, within rounding.

        folder: a new folder. Raises SaveError, with what cannot be undone, before anything is written.
        """
        from excise.checkpoint_diff.undo import save_undo

        save_undo(self, expanded(folder))


def shared_directions(writers: Sequence[WriterChange]) -> list[list[WriterChange]]:
    """The writers grouped by direction: within a group all are parallel, either way round."""
    groups: list[list[WriterChange]] = []
    for one in writers:
        direction = one.operator.direction
        for group in groups:
            if abs(float(group[0].operator.direction @ direction)) > _PARALLEL:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups
