"""The differences of two checkpoints, as an edit, and as an adapter that undoes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from excise.checkpoint.index import Index
from excise.checkpoint.reader import Reader
from excise.checkpoint.source import ModelSource
from excise.checkpoint_diff.layout import Place
from excise.checkpoint_diff.matrix import MatrixChange
from excise.checkpoint_diff.names import Names
from excise.checkpoint_diff.operator import FoundOperator
from excise.edits.adapter import ParameterChange, rank_of, require_form
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.peft_folder import AdapterFolder, write_adapter
from excise.errors import SaveError, listed
from excise.system.paths import expanded

_PARALLEL = 0.99


@dataclass(frozen=True)
class Compared:
    """name: as the user gave it. source: None for weights without config.json."""

    name: str
    source: ModelSource | None
    index: Index


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


@dataclass(frozen=True, eq=False)
class Diff:
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
        return [one for one in self.changed if one.rank != 0]

    @property
    def unexplained(self) -> list[TensorChange]:
        """The `moved` tensors that no operator on a writer explains."""
        explained = {one.writer for one in self.writers}
        return [one for one in self.moved if one.place is None or one.place.writer not in explained]

    def edit(self) -> Edit:
        """The difference as an edit of the first checkpoint.

        Raises SaveError if a difference is not explained by operators on writers.
        """
        self._require_comparable("edit (--edit)")
        if other := [one.name for one in self.unexplained]:
            raise SaveError(
                f"edit (--edit): no operator on a writer explains the change of {listed(other)}; nothing was "
                "written"
            )
        unfit = [one.writer for one in self.writers if one.biases is False]
        if unfit:
            raise SaveError(
                "edit (--edit): an edit changes biases with their matrices, but the biases of "
                f"{listed(unfit)} did not change; nothing was written"
            )
        found = [one.operator for one in self.writers]
        kinds = {one.kind for one in found}
        return Edit(
            kind=kinds.pop() if len(kinds) == 1 else "recovered",
            writers=tuple(one.writer for one in self.writers),
            u=torch.stack([one.u for one in found]),
            v=torch.stack([one.v for one in found]),
            strengths=torch.tensor([one.strength for one in found]),
            per_matrix=tuple(one.writer for one in self.writers if one.operator.per_matrix),
            facts={
                "recovered_from": [self.first.name, self.second.name],
                "outside": max(one.outside for one in found),
            },
            base=None if self.first.source is None else Base.of(self.first.source),
        )

    def save_undo(self, folder: str | Path) -> None:
        """Write a peft adapter that turns the second checkpoint into the first, within rounding.

        Matrices get the opposite change, biases their former values. folder: a new folder. Raises SaveError,
        before anything is written, if a change cannot be undone.
        """
        if self.model is None:
            raise SaveError(
                f"save_undo (--undo): {self.why_not}; an adapter needs the names of its modules"
            )
        self._require_comparable("save_undo (--undo)")
        lost = [one.name for one in self.moved if not _undoable(one)]
        if lost:
            raise SaveError(
                "save_undo (--undo): an adapter can undo changes of low rank in linear layers and experts, "
                f"not those of {listed(lost)}; nothing was written"
            )
        with Reader(self.first.index) as reader:
            changes = list(_opposites(self.moved, reader))
        require_form(self.model, [change.tensor for change in changes], rank_of(changes))
        card, path = _card(self.first, self.second, len(changes)), expanded(folder)
        if self.second.source is None:
            place = AdapterFolder(path, str(expanded(self.second.name).absolute()), card=card)
        else:
            place = AdapterFolder.of(path, self.second.source, card)
        write_adapter(self.model, changes, place)

    def _require_comparable(self, what: str) -> None:
        odd = [*self.names.only_first, *self.names.only_second, *self.names.reshaped]
        if odd:
            raise SaveError(
                f"{what}: the checkpoints do not hold the same tensors ({listed(odd)}); nothing was written"
            )
        if not self.moved:
            raise SaveError(f"{what}: the checkpoints do not differ by more than rounding")


def _undoable(one: TensorChange) -> bool:
    if one.place is None:
        return False
    if one.place.parameter.bias:
        return len(one.shape) == 1
    return all(each.factors is not None or not each.rank for each in one.matrices)


def _opposites(moved: list[TensorChange], former: Reader) -> Iterator[ParameterChange]:
    """The change that undoes each parameter; a parameter may be stored in several tensors."""
    by_parameter: dict[str, list[TensorChange]] = {}
    for one in moved:
        assert one.place is not None
        by_parameter.setdefault(one.place.parameter.name, []).append(one)
    for parts in by_parameter.values():
        assert parts[0].place is not None
        tensor = parts[0].place.parameter
        if tensor.bias:
            yield ParameterChange(tensor, (), former.read(parts[0].former).to(torch.float32))
            continue
        numbered = {one.place.number: one for one in parts if one.place is not None}
        count = tensor.shape[0] if len(tensor.shape) == 3 else 1
        d = tensor.shape[tensor.axis]
        nothing = torch.zeros(d, 1), torch.zeros(1, sum(tensor.shape[-2:]) - d)
        found = {
            number + index: each.factors
            for number, one in numbered.items()
            for index, each in enumerate(one.matrices)
        }
        pairs = tuple(
            nothing if factors is None else (-factors.left, factors.right)
            for factors in map(found.get, range(count))
        )
        yield ParameterChange(tensor, pairs)


def _card(first: Compared, second: Compared, count: int) -> str:
    former, latter = (
        Path(one.name).absolute().name if one.source is None else one.source.public_name
        for one in (first, second)
    )
    return (
        "---\nlibrary_name: peft\ntags:\n- excise\n---\n\n# An edit undone\n\n"
        f"This LoRA adapter turns **{latter}** back into **{former}**, within rounding: it holds "
        f"the opposite of their difference, in {count} parameters. Made by `excise diff --undo` from "
        "both checkpoints; nothing was trained.\n"
    )


def shared_directions(writers: Sequence[WriterChange]) -> list[list[WriterChange]]:
    """The writers grouped by parallel or antiparallel directions."""
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
