"""The operator on stored matrices: W' = W − α u (vᵀ W) and b' = b − α u (vᵀ b), one matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from excise.edits.values import EditValues
from excise.operators.operator import Operator, row_normalised

_BLOCK_NUMBERS = 1 << 21
"""Numbers in a block, which is converted to float32; a whole matrix would take too much memory."""


def parts(tensor: Tensor, axis: int, *, bias: bool) -> Iterator[Tensor]:
    """Views [d, k] of each matrix in a stored tensor, or [d] of each bias.

    axis: the one that runs over the residual stream, d. Experts lie along the axes before the last two
    (before the last one, of a bias).
    """
    axes = 1 if bias else 2
    stack = tensor.reshape(-1, *tensor.shape[-axes:])
    for part in stack:
        yield part.T if not bias and axis == tensor.dim() - 1 else part


def removed(tensor: Tensor, u: Tensor, v: Tensor, strength: float) -> Tensor:
    """W − α u (vᵀ W) for a weight [d, k], b − α u (vᵀ b) for a bias [d]; float32."""
    tensor = tensor.to(torch.float32)
    amount = v @ tensor
    if tensor.dim() == 1:
        return tensor.sub(u * amount, alpha=strength)
    return torch.addr(tensor, u, amount, alpha=-strength)


def steps_of(edit: EditValues, writer: str, norms: Tensor | None) -> list[tuple[Operator, float]]:
    """A writer's operators and strengths for one of its matrices, in the order of application.

    norms: of the rows of the matrix, [d], for an edit with an operator for each matrix; a bias takes the
    norms of its matrix.
    """
    steps: list[tuple[Operator, float]] = []
    for index, name in enumerate(edit.writers):
        if name == writer:
            operator = Operator(edit.u[index], edit.v[index])
            if norms is not None and name in edit.per_matrix:
                operator = row_normalised(operator.u, norms)
            steps.append((operator, float(edit.strengths[index])))
    return steps


def edit_in_place(part: Tensor, steps: Sequence[tuple[Operator, float]]) -> None:
    """Edit a matrix [d, k] or a bias [d] in place, with float32 arithmetic, a block of columns at a time."""
    for columns in blocks_of(part):
        columns.copy_(edited(columns, steps))


def edited(part: Tensor, steps: Sequence[tuple[Operator, float]]) -> Tensor:
    """A matrix [d, k] or a bias [d] after all of its operators; float32."""
    part = part.to(torch.float32)
    for operator, strength in steps:
        part = removed(part, operator.u, operator.v, strength)
    return part


def row_lengths(matrix: Tensor) -> Tensor:
    """Euclidean norms of the rows of a matrix [d, k]: [d], float32."""
    squares = torch.zeros(matrix.shape[0], device=matrix.device)
    for columns in blocks_of(matrix):
        squares += columns.to(torch.float32).square().sum(1)
    return squares.sqrt()


def blocks_of(part: Tensor) -> Iterator[Tensor]:
    """Views of blocks of columns; a bias is one block."""
    if part.dim() == 1:
        yield part
        return
    width = max(1, _BLOCK_NUMBERS // part.shape[0])
    for start in range(0, part.shape[1], width):
        yield part[:, start : start + width]


class MatrixOperators:
    """The operators of one writer for each of its matrices and then for each of its biases, in order.

    A bias takes the operators of the matrix of the same number.
    """

    def __init__(self, edit: EditValues, writer: str) -> None:
        self._edit, self._writer = edit, writer
        self._norms: list[Tensor] = []
        self._biases = 0

    def _next(self, part: Tensor) -> list[tuple[Operator, float]]:
        """The operators of the next matrix [d, k] or bias [d]."""
        if self._writer not in self._edit.per_matrix:
            return steps_of(self._edit, self._writer, None)
        if part.dim() == 2:
            self._norms.append(row_lengths(part))
            return steps_of(self._edit, self._writer, self._norms[-1])
        self._biases += 1
        return steps_of(self._edit, self._writer, self._norms[self._biases - 1])

    def edited(self, part: Tensor) -> Tensor:
        """The next matrix or bias, edited; float32."""
        return edited(part, self._next(part))

    def factors(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """B [d, direction] and A [direction, k] of the next matrix W [d, k]: W' = W + B A; float32.

        An operator of strength 0 counts too, so that all writers have factors of the same rank.
        """
        rows: list[Tensor] = []
        columns: list[Tensor] = []
        for operator, strength in self._next(matrix):
            rows.append(operator.v @ matrix)
            columns.append(-strength * operator.u)
            matrix = removed(matrix, operator.u, operator.v, strength)
        return torch.stack(columns, 1), torch.stack(rows)
