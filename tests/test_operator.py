"""The operator's algebra, against dense matrices."""

from __future__ import annotations

import pytest
import torch

from excise.operators.moments import ExactMoments
from excise.operators.operator import (
    Operator,
    discriminant,
    orthogonal,
    row_normalised,
    through_post_norm,
    unit,
)
from reference import apply_operator

D, WRITERS = 12, 3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(seed: int = 5) -> ExactMoments:
    filled = ExactMoments(WRITERS, D)
    for index, outputs in enumerate(draw(WRITERS, 50, D, seed=seed)):
        filled.add(index, outputs)
    return filled


OPERATORS = {
    "orthogonal": lambda: orthogonal(unit(draw(WRITERS, D))),
    "row_normalised": lambda: row_normalised(
        unit(draw(WRITERS, D)), draw(WRITERS, D, seed=1).abs()
    ),
    "discriminant": lambda: discriminant(draw(WRITERS, D), moments(), 0.01),
}


@pytest.fixture(params=sorted(OPERATORS))
def operator(request: pytest.FixtureRequest) -> Operator:
    made = OPERATORS[request.param]()
    return Operator(made.u.to(torch.float64), made.v.to(torch.float64))


def test_overlap_is_one(operator: Operator) -> None:
    torch.testing.assert_close((operator.u * operator.v).sum(-1), torch.ones(WRITERS).double())


def test_strength_one_is_idempotent_and_blind_along_v(operator: Operator) -> None:
    y = draw(7, D, seed=2)
    once = apply_operator(y, operator.u[0], operator.v[0], 1.0)
    twice = apply_operator(once, operator.u[0], operator.v[0], 1.0)
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(once @ operator.v[0], torch.zeros(7).double(), atol=1e-6, rtol=0)


def test_what_v_does_not_see_is_untouched(operator: Operator) -> None:
    y = draw(7, D, seed=3)
    v = operator.v[0]
    y = y - (y @ v).unsqueeze(-1) * v / (v @ v)
    torch.testing.assert_close(apply_operator(y, operator.u[0], v, 1.3), y)


def test_edit_of_a_matrix_has_rank_one_and_equals_edit_of_its_output(operator: Operator) -> None:
    weight, x = draw(D, 9, seed=4), draw(5, 9, seed=6)
    u, v = operator.u[1], operator.v[1]
    change = -0.8 * torch.outer(u, v @ weight)
    assert torch.linalg.matrix_rank(change) == 1
    torch.testing.assert_close(x @ (weight + change).T, apply_operator(x @ weight.T, u, v, 0.8))


def test_orthogonal_equals_the_dense_projector() -> None:
    r, weight = unit(draw(1, D)), draw(D, 9, seed=4)
    dense = (torch.eye(D) - torch.outer(r[0], r[0])) @ weight
    made = orthogonal(r)
    torch.testing.assert_close(weight - torch.outer(made.u[0], made.v[0] @ weight), dense)


def test_row_normalised_equals_normalise_ablate_and_scale_back() -> None:
    r, weight = unit(draw(1, D)), draw(D, 9, seed=4)
    norms = weight.norm(dim=1)
    ablated = (torch.eye(D) - torch.outer(r[0], r[0])) @ (weight / norms.unsqueeze(1))
    made = row_normalised(r, norms.unsqueeze(0))
    torch.testing.assert_close(
        weight - torch.outer(made.u[0], made.v[0] @ weight), ablated * norms.unsqueeze(1)
    )


def test_row_normalised_bears_a_row_of_zeros() -> None:
    made = row_normalised(unit(draw(1, D)), torch.zeros(1, D).double())
    assert torch.isfinite(made.u).all()
    assert torch.isfinite(made.v).all()


def test_post_norm_direction_removes_r_behind_the_norm() -> None:
    r, gain, y = unit(draw(1, D)), draw(1, D, seed=1).abs(), draw(7, D, seed=2)
    seen = through_post_norm(r, gain)
    edited = apply_operator(y, seen[0], seen[0], 1.0)
    behind = gain * edited / edited.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(behind @ r[0], torch.zeros(7).double(), atol=1e-9, rtol=0)
