"""The bank: everything about directions that a search needs, computed once, small, and then only read.

A trial's edit is looked up or made from it with a few operations on [writer, d] arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from excise.directions import at_fractional_layer
from excise.edit.edit import Edit
from excise.edit.operator import (
    Kind,
    Operator,
    discriminant,
    orthogonal,
    row_normalised,
    through_post_norm,
)
from excise.engine.capture import WriterStatistics
from excise.model.writers import Anatomy
from excise.search.space import Candidate


class Bank(Protocol):
    """What gives a candidate its operator."""

    @property
    def kind(self) -> Kind:
        """The kind of operator it makes."""

    def operator(self, candidate: Candidate) -> Operator:
        """(u, v) of every writer, [writer, d] float32, in the anatomy's order."""


@dataclass(frozen=True)
class ResidualBank:
    """Directions of the residual stream, for the orthogonal and the row-normalised kind.

    directions: [layer, d], float32. layer_of: [writer], each writer's layer. gains: [writer, d], γ of
    the post-norms. row_norms: [writer, d] for the row-normalised kind, else None.
    """

    directions: Tensor
    layer_of: Tensor
    gains: Tensor
    row_norms: Tensor | None

    @property
    def kind(self) -> Kind:
        """Row-normalised if row norms are there."""
        return "orthogonal" if self.row_norms is None else "row_normalised"

    def operator(self, candidate: Candidate) -> Operator:
        """Each writer's own layer's direction, or one for all from a fractional layer index."""
        if candidate.direction_index is None:
            directions = self.directions[self.layer_of]
        else:
            shared = at_fractional_layer(self.directions, candidate.direction_index)
            directions = shared.expand(len(self.layer_of), -1)
        directions = through_post_norm(directions, self.gains)
        if self.row_norms is None:
            return orthogonal(directions)
        return row_normalised(directions, self.row_norms)


@dataclass(frozen=True)
class DiscriminantBank:
    """Writer-local discriminants, solved for every ridge of the space."""

    operators: Mapping[float, Operator]

    @property
    def kind(self) -> Kind:
        """Always the discriminant kind."""
        return "discriminant"

    def operator(self, candidate: Candidate) -> Operator:
        """The operators of the candidate's ridge."""
        assert candidate.ridge is not None
        return self.operators[candidate.ridge]


def residual_bank(
    directions: Tensor, anatomy: Anatomy, gains: Tensor, row_norms: Tensor | None
) -> ResidualBank:
    """A bank of residual `directions` [layer, d]."""
    layer_of = torch.tensor([writer.layer for writer in anatomy.writers])
    return ResidualBank(directions.to(torch.float32), layer_of, gains, row_norms)


def solve_discriminants(
    target: WriterStatistics, control: WriterStatistics, ridges: tuple[float, ...]
) -> dict[float, Operator]:
    """Operators of the discriminant kind for each ridge, from the statistics of some writers."""
    assert control.second_moments is not None
    differences = target.means - control.means
    return {ridge: discriminant(differences, control.second_moments, ridge) for ridge in ridges}


def edit_of(candidate: Candidate, bank: Bank, anatomy: Anatomy) -> Edit:
    """The edit that a candidate stands for."""
    operator = bank.operator(candidate)
    return Edit(
        kind=bank.kind,
        writers=anatomy.names,
        u=operator.u,
        v=operator.v,
        strengths=candidate.strengths(anatomy),
        per_matrix=per_matrix(bank.kind, anatomy),
    )


def per_matrix(kind: Kind, anatomy: Anatomy) -> tuple[str, ...]:
    """Writers for whose each matrix the kind makes another operator: experts, row-normalised."""
    if kind != "row_normalised":
        return ()
    return tuple(writer.name for writer in anatomy.writers if writer.matrices > 1)
