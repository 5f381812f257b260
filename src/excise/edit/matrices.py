"""The operator on stored matrices: W' = W − α u (vᵀ W) and b' = b − α u (vᵀ b), one matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from excise.edit.edit import Edit
from excise.edit.operator import Operator, row_normalised


def parts(tensor: Tensor, axis: int, *, bias: bool) -> Iterator[Tensor]:
    """Views [d, k] of each matrix in a stored tensor, or [d] of each bias.

    axis: the one that runs over the residual stream, d. Experts lie along the axes before the last two
    (before the last one, of a bias).
    """
    own = 1 if bias else 2
    stack = tensor.reshape(-1, *tensor.shape[-own:]) if tensor.dim() > own else tensor.unsqueeze(0)
    for part in stack:
        yield part.T if not bias and axis == tensor.dim() - 1 else part


def removed(tensor: Tensor, u: Tensor, v: Tensor, strength: float) -> Tensor:
    """W − α u (vᵀ W) for a weight [d, k], b − α u (vᵀ b) for a bias [d]; float32."""
    tensor = tensor.to(torch.float32)
    amount = v @ tensor
    change = torch.outer(u, amount) if tensor.dim() == 2 else u * amount
    return tensor.sub(change, alpha=strength)


class _Step:
    """One operator of a writer for each of its matrices, and for the biases that belong to them.

    It is the same for all, unless the edit asks for one made from each matrix. A bias then takes that of
    the matrix of the same number, so matrices come first.
    """

    def __init__(self, edit: Edit, index: int) -> None:
        self.strength = float(edit.strengths[index])
        self._shared = Operator(edit.u[index], edit.v[index])
        self._own: list[Operator] | None = [] if edit.writers[index] in edit.per_matrix else None
        self._biases = 0

    def next_for(self, part: Tensor) -> Operator:
        """The operator for the next matrix [d, k] or the next bias [d]."""
        if self._own is None:
            return self._shared
        if part.dim() == 2:
            self._own.append(row_normalised(self._shared.u, part.to(torch.float32).norm(dim=1)))
            return self._own[-1]
        self._biases += 1
        return self._own[self._biases - 1]


class MatrixOperators:
    """The operators of one writer, in the order in which they apply: one for each direction of the edit."""

    def __init__(self, edit: Edit, writer: str) -> None:
        # One that is off too, so that every writer has factors of the same rank.
        self._steps = [
            _Step(edit, index) for index, name in enumerate(edit.writers) if name == writer
        ]

    def edited(self, part: Tensor) -> Tensor:
        """The next matrix or bias, edited; float32."""
        edited = part
        for step in self._steps:
            operator = step.next_for(part)
            edited = removed(edited, operator.u, operator.v, step.strength)
        return edited

    def factors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """B [d, direction] and A [direction, k] of the next matrix W [d, k]: W' = W + B A; float32."""
        rows: list[Tensor] = []
        columns: list[Tensor] = []
        edited = matrix
        for step in self._steps:
            operator = step.next_for(matrix)
            rows.append(operator.v @ edited)
            columns.append(-step.strength * operator.u)
            edited = removed(edited, operator.u, operator.v, step.strength)
        return torch.stack(columns, 1), torch.stack(rows)
