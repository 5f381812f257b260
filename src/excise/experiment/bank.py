"""The bank: all directions and operators of a search, computed once.

A trial's edit needs only a few operations on [writer, d] arrays of the bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from excise.anatomy.writers import Anatomy
from excise.edits.edit import Edit
from excise.kinds import Kind, of_residuals
from excise.operators.operator import Operator, orthogonal, row_normalised, through_post_norm
from excise.operators.residual import at_fractional_layer
from excise.search.space import Candidate


@dataclass(frozen=True)
class ResidualBank:
    """Directions of the residual stream, for the orthogonal and the row-normalised kind.

    directions: [layer, d], float32. layer_of: [writer], layer of each writer. gains: [writer, d], γ of
    the post-norms. row_norms: [writer, d] for the row-normalised kind, else None.
    """

    directions: Tensor
    layer_of: Tensor
    gains: Tensor
    row_norms: Tensor | None

    def operator(self, kind: Kind, direction_index: float | None) -> Operator:
        """Operators with the direction of each writer's layer, or of a fractional layer for all writers."""
        if direction_index is None:
            directions = self.directions[self.layer_of]
        else:
            shared = at_fractional_layer(self.directions, direction_index)
            directions = shared.expand(len(self.layer_of), -1)
        directions = through_post_norm(directions, self.gains)
        if kind == "orthogonal":
            return orthogonal(directions)
        assert self.row_norms is not None
        return row_normalised(directions, self.row_norms)


@dataclass(frozen=True)
class Bank:
    """The operators of candidates.

    residual: for kinds of residual directions. local: operators of the discriminant, by ridge. further: banks
    of the second and later directions, each measured without the earlier directions and applied after them.
    """

    residual: ResidualBank | None = None
    local: Mapping[float, Operator] = field(default_factory=dict)
    further: tuple[Bank, ...] = ()

    def operator(self, candidate: Candidate) -> Operator:
        """(u, v), [directions · writer, d] float32: all writers of the first direction, then of the next."""
        if of_residuals(candidate.kind):
            assert self.residual is not None
            first = self.residual.operator(candidate.kind, candidate.direction_index)
        else:
            assert candidate.ridge is not None
            first = self.local[candidate.ridge]
        operators = [first, *(bank.operator(candidate) for bank in self.further)]
        if len(operators) == 1:
            return first
        return Operator(
            torch.cat([each.u for each in operators]), torch.cat([each.v for each in operators])
        )


def residual_bank(
    directions: Tensor, anatomy: Anatomy, gains: Tensor, row_norms: Tensor | None
) -> ResidualBank:
    """A bank of residual `directions` [layer, d]."""
    layer_of = torch.tensor([writer.layer for writer in anatomy.writers])
    return ResidualBank(directions.to(torch.float32), layer_of, gains, row_norms)


def edit_of(candidate: Candidate, bank: Bank, anatomy: Anatomy) -> Edit:
    """The edit of a candidate, with the same strengths for every direction."""
    operator = bank.operator(candidate)
    directions = 1 + len(bank.further)
    return Edit(
        kind=candidate.kind,
        writers=anatomy.names * directions,
        u=operator.u,
        v=operator.v,
        strengths=candidate.strengths(anatomy).repeat(directions),
        per_matrix=per_matrix(candidate.kind, anatomy),
    )


def per_matrix(kind: Kind, anatomy: Anatomy) -> tuple[str, ...]:
    """Writers with an operator for each matrix: experts with the row-normalised kind."""
    if kind != "row_normalised":
        return ()
    return tuple(writer.name for writer in anatomy.writers if writer.matrices > 1)
