"""Writes a difference as an adapter that undoes it, or as an edit file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from excise.checkpoint.reader import Reader
from excise.checkpoint_diff.checkpoint import Compared
from excise.checkpoint_diff.names import listed
from excise.checkpoint_diff.result import TensorChange, TensorComparison
from excise.edits.adapter import ParameterChange, rank_of, require_form
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.peft_folder import AdapterFolder, write_adapter
from excise.errors import SaveError
from excise.system.paths import expanded


def _require_comparable(diff: TensorComparison, what: str) -> None:
    """Raise SaveError unless both checkpoints hold the same tensors and some of them differ."""
    names = diff.names
    odd = [*names.only_first, *names.only_second, *names.reshaped]
    if odd:
        raise SaveError(
            f"{what}: the checkpoints do not hold the same tensors ({listed(odd)}); nothing was written"
        )
    if not diff.moved:
        raise SaveError(f"{what}: the checkpoints do not differ by more than rounding")


def save_undo(diff: TensorComparison, destination: Path) -> None:
    """`Diff.save_undo`: matrices get the opposite change, biases their former values."""
    first, second, model, moved = diff.first, diff.second, diff.model, diff.moved
    if model is None:
        raise SaveError(f"--undo: {diff.why_not}; an adapter needs the names of its modules")
    _require_comparable(diff, "--undo")
    lost = [change.name for change in moved if not _undoable(change)]
    if lost:
        raise SaveError(
            f"--undo: an adapter can undo changes of low rank in linear layers and experts, not those of "
            f"{listed(lost)}; nothing was written"
        )
    with Reader(first.index) as reader:
        changes = list(_opposites(moved, reader))
    require_form(model, [change.tensor for change in changes], rank_of(changes))
    card = _card(first, second, len(changes))
    if second.source is None:
        folder = AdapterFolder(destination, str(expanded(second.name).absolute()), card=card)
    else:
        folder = AdapterFolder.of(destination, second.source, card)
    write_adapter(model, changes, folder)


def _undoable(change: TensorChange) -> bool:
    if change.place is None:
        return False
    if change.place.parameter.bias:
        return len(change.shape) == 1
    return all(each.factors is not None or not each.rank for each in change.matrices)


def _opposites(moved: list[TensorChange], former: Reader) -> Iterator[ParameterChange]:
    """The change that undoes each parameter; a parameter may be stored in several tensors."""
    by_parameter: dict[str, list[TensorChange]] = {}
    for change in moved:
        assert change.place is not None
        by_parameter.setdefault(change.place.parameter.name, []).append(change)
    for parts in by_parameter.values():
        assert parts[0].place is not None
        tensor = parts[0].place.parameter
        if tensor.bias:
            yield ParameterChange(tensor, (), former.read(parts[0].former).to(torch.float32))
            continue
        numbered = {change.place.number: change for change in parts if change.place is not None}
        count = tensor.shape[0] if len(tensor.shape) == 3 else 1
        d = tensor.shape[tensor.axis]
        nothing = torch.zeros(d, 1), torch.zeros(1, sum(tensor.shape[-2:]) - d)
        found = {
            number + index: each.factors
            for number, change in numbered.items()
            for index, each in enumerate(change.matrices)
        }
        pairs = tuple(
            nothing if factors is None else (-factors.left, factors.right)
            for factors in map(found.get, range(count))
        )
        yield ParameterChange(tensor, pairs)


def recovered_edit(diff: TensorComparison) -> Edit:
    """`Diff.edit`."""
    _require_comparable(diff, "--edit")
    first, second = diff.first, diff.second
    if other := [change.name for change in diff.unexplained]:
        raise SaveError(
            f"--edit: no operator on a writer explains the change of {listed(other)}; nothing was written"
        )
    unfit = [change.writer for change in diff.writers if change.biases is False]
    if unfit:
        raise SaveError(
            "--edit: an edit changes biases with their matrices, but the biases of "
            f"{listed(unfit)} did not change; nothing was written"
        )
    found = [change.operator for change in diff.writers]
    kinds = {operator.kind for operator in found}
    return Edit(
        kind=kinds.pop() if len(kinds) == 1 else "recovered",
        writers=tuple(change.writer for change in diff.writers),
        u=torch.stack([operator.u for operator in found]),
        v=torch.stack([operator.v for operator in found]),
        strengths=torch.tensor([operator.strength for operator in found]),
        per_matrix=tuple(change.writer for change in diff.writers if change.operator.per_matrix),
        facts={
            "recovered_from": [first.name, second.name],
            "outside": max(operator.outside for operator in found),
        },
        base=None if first.source is None else Base.of(first.source),
    )


def _card(first: Compared, second: Compared, count: int) -> str:
    former, latter = (
        Path(checkpoint.name).absolute().name
        if checkpoint.source is None
        else checkpoint.source.public_name
        for checkpoint in (first, second)
    )
    return (
        "---\nlibrary_name: peft\ntags:\n- excise\n---\n\n# An edit undone\n\n"
        f"This LoRA adapter turns **{latter}** back into **{former}**, within rounding: it holds "
        f"the opposite of their difference, in {count} parameters. Made by `excise diff --undo` from "
        "both checkpoints; nothing was trained.\n"
    )
