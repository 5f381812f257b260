"""The result of a comparison of two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.checkpoint_diff.checkpoint import Compared
from excise.checkpoint_diff.layout import Place
from excise.checkpoint_diff.matrix import MatrixChange
from excise.checkpoint_diff.names import Names
from excise.checkpoint_diff.operator import FoundOperator

_PARALLEL = 0.99


@dataclass(frozen=True)
class TensorChange:
    """A tensor that differs. name: in the second checkpoint; former: in the first.

    relative: ‖B − A‖ / ‖A‖, Frobenius, infinite if A is zero. largest: of |B − A|; NaN if the tensor contains
    NaN. share: of differing numbers. matrices: the change of each matrix, oriented by `place`; empty for
    vectors and quantised tensors. place: its role in the model, if known.
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
        """The highest rank of its matrices, None without matrices."""
        return max((each.rank for each in self.matrices), default=None)

    @property
    def more(self) -> bool:
        """True if the true rank may be higher."""
        return any(each.more for each in self.matrices)

    @property
    def full(self) -> bool:
        """True if the rank is the full rank."""
        return self.rank is not None and self.rank >= min(self.shape[-2:])


@dataclass(frozen=True)
class WriterChange:
    """A writer that was edited by an operator. biases: whether they changed too, None without biases."""

    writer: str
    operator: FoundOperator
    biases: bool | None


@dataclass(frozen=True)
class TensorComparison:
    """All differences of two checkpoints.

    names: tensors that only one checkpoint has, and differences in names, types and shapes. same: number of
    equal tensors. changed: the other tensors. writers: writers whose changes an operator explains. model: the
    second checkpoint's, on the meta device; None if it could not be built: `why_not` is the reason, and
    writers are not examined.
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
        """True if all tensors are equal, whatever files they are in."""
        return not (self.changed or self.names.differ)

    @property
    def moved(self) -> list[TensorChange]:
        """Tensors that differ by more than rounding, and all differing vectors."""
        return [change for change in self.changed if change.rank != 0]

    @property
    def unexplained(self) -> list[TensorChange]:
        """The `moved` tensors that no operator on a writer explains."""
        explained = {writer.writer for writer in self.writers}
        return [
            change
            for change in self.moved
            if change.place is None or change.place.writer not in explained
        ]


def shared_directions(writers: Sequence[WriterChange]) -> list[list[WriterChange]]:
    """The writers grouped by parallel or antiparallel directions."""
    groups: list[list[WriterChange]] = []
    for writer in writers:
        direction = writer.operator.direction
        for group in groups:
            if abs(float(group[0].operator.direction @ direction)) > _PARALLEL:
                group.append(writer)
                break
        else:
            groups.append([writer])
    return groups
