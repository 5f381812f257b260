"""The discriminant kind; second moments exact and sketched; against dense algebra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
import torch

from excise.kinds import FACTS, KINDS, FormerKind, current_name, former_name
from excise.operators.moments import ExactMoments, Moments, SketchedMoments
from excise.operators.operator import discriminant, discriminants, unit
from reference import apply_operator

D = 12


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(tokens: int = 400, width: int = D, seed: int = 8) -> torch.Tensor:
    """Correlated, and not about zero."""
    return draw(tokens, width, seed=seed) @ draw(width, width, seed=9) + draw(width, seed=10)


def filled(moments: Moments, *writers: torch.Tensor, pieces: int = 3) -> Moments:
    for index, tokens in enumerate(writers):
        for piece in tokens.chunk(pieces):
            moments.add(index, piece)
    return moments


def second_moment(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.T @ tokens / len(tokens)


def test_every_kind_has_its_facts_and_names_of_history_lead_to_today() -> None:
    former = {"recovered", *get_args(FormerKind)}
    assert set(FACTS) == former | set(KINDS)
    old = ("discriminant_weighted", "discriminant", "discriminant_centred", "discriminant_answers")
    assert {current_name(kind) for kind in (*old, "leace", "orthogonal", "row_normalised")} == (
        set(FACTS) - {"recovered"}
    )
    assert [current_name(former_name(kind)) for kind in KINDS] == list(KINDS)


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=64)])
def test_solutions_are_those_of_the_matrix(make: Callable[[int, int], Moments]) -> None:
    right = draw(D, seed=1)
    system = filled(make(1, D), outputs()).system(0)
    matrix = system.matrix()
    shifted = matrix + 0.03 * system.variance * torch.eye(D)
    expected = torch.linalg.solve(shifted, right)
    torch.testing.assert_close(system.solve(right, 0.03), expected, atol=1e-6, rtol=1e-5)
    trace = float(torch.linalg.solve(shifted, matrix).trace())
    assert system.effective_dimension(0.03) == pytest.approx(trace, rel=1e-5)


def test_exact_moments_are_those_of_all_tokens() -> None:
    tokens = outputs()
    moments = filled(ExactMoments(1, D), tokens)
    system, expected = moments.system(0), second_moment(tokens)
    torch.testing.assert_close(system.matrix(), expected, atol=1e-4, rtol=1e-5)
    assert system.variance == pytest.approx(float(expected.trace()) / D, 1e-5)
    assert moments.counts[0] == 400


def test_a_weight_counts_tokens_several_times() -> None:
    tokens = outputs(20)
    weighted, repeated = ExactMoments(1, D), ExactMoments(1, D)
    weighted.add(0, tokens, 5)
    filled(repeated, tokens.repeat(5, 1))
    torch.testing.assert_close(
        weighted.system(0).matrix(), repeated.system(0).matrix(), atol=1e-4, rtol=1e-5
    )
    sketched = SketchedMoments(1, D, 5000)
    sketched.add(0, tokens, 5)
    torch.testing.assert_close(
        sketched.system(0).matrix(), repeated.system(0).matrix(), atol=0.2, rtol=0.1
    )


def test_a_sketch_errs_less_the_more_rows_it_has_and_its_discriminant_does_no_more_damage() -> None:
    # As in a model: wide outputs whose power lies in few directions.
    width, tokens = 96, 6000
    scales = torch.arange(1, width + 1).double().pow(-1.0)
    data = draw(tokens, width, seed=3) * scales @ torch.linalg.qr(draw(width, width, seed=4)).Q
    delta = draw(1, width, seed=5)
    exact = filled(ExactMoments(1, width), data)
    matrix = exact.system(0).matrix()

    def damage(moments: Moments) -> float:
        made = discriminant(delta, moments, 0.01)
        return float(made.v[0].double() @ matrix @ made.v[0].double())

    errors: list[float] = []
    for rows in (48, 384, 3072):
        # Every writer's sketch is drawn with a seed of its own.
        sketches = filled(SketchedMoments(5, width, rows), *[data] * 5)
        found = [sketches.system(index).matrix() for index in range(5)]
        off = [(one - matrix).norm() / matrix.norm() for one in found]
        errors.append(float(torch.stack(off).mean()))
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    # What counts: how far control outputs move. Half as many rows as dimensions cost little.
    best = damage(exact)
    assert damage(filled(SketchedMoments(1, width, 384), data)) < 1.5 * best
    assert damage(filled(SketchedMoments(1, width, 3072), data)) < 1.1 * best
    r = unit(delta)[0]
    assert 8 * best < float(r @ matrix @ r)


def test_discriminant_equals_a_plain_solve() -> None:
    delta, tokens, ridge = draw(2, D), [outputs(seed=1), outputs(seed=2)], 0.03
    made = discriminant(delta, filled(ExactMoments(2, D), *tokens), ridge)
    for index in range(2):
        second = second_moment(tokens[index])
        v = torch.linalg.solve(
            second + ridge * second.diagonal().mean() * torch.eye(D), delta[index]
        )
        dense = torch.outer(delta[index], v) / (v @ delta[index])
        torch.testing.assert_close(
            torch.outer(made.u[index], made.v[index]).double(), dense, atol=1e-5, rtol=1e-4
        )


def test_discriminant_moves_control_outputs_least_of_all_that_remove_delta() -> None:
    tokens, delta = outputs(), draw(1, D)

    def damage(u: torch.Tensor, v: torch.Tensor) -> float:
        return float((tokens - apply_operator(tokens, u, v, 1.0)).square().sum())

    made = discriminant(delta, filled(ExactMoments(1, D), tokens), 1e-9)
    best = damage(made.u[0].double(), made.v[0].double())
    direction = unit(delta[0])
    assert best < damage(direction, direction)
    for seed in range(20):
        v = made.v[0].double() + 0.05 * draw(D, seed=seed)
        assert best <= damage(direction, v / (v @ direction)) * (1 + 1e-6)


def test_no_difference_and_silence_are_borne() -> None:
    moments = filled(ExactMoments(1, D), outputs())
    made = discriminant(torch.zeros(1, D), moments, 0.01)
    y = draw(3, D)
    torch.testing.assert_close(apply_operator(y, made.u[0].double(), made.v[0].double(), 1.0), y)
    silent = discriminant(draw(1, D), filled(ExactMoments(1, D), torch.zeros(9, D)), 0.01)
    torch.testing.assert_close(silent.u, silent.v)


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=64)])
def test_all_ridges_together_are_each_alone(
    make: Callable[[int, int], Moments], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {ridge: draw(2, D, seed=place % 2) for place, ridge in enumerate((0.003, 0.01, 0.3))}
    moments = filled(make(2, D), outputs(200, seed=3), outputs(200, seed=30))
    built: list[int] = []
    build = type(moments).system
    with monkeypatch.context() as patch:
        patch.setattr(
            type(moments), "system", lambda self, index: built.append(index) or build(self, index)
        )
        found = discriminants(asked, moments)
    assert built == [0, 1]
    for ridge, delta in asked.items():
        for index, row in enumerate(unit(delta)):
            system = moments.system(index)
            shift = ridge * system.variance
            v = torch.linalg.solve(system.matrix() + shift * torch.eye(D), row)
            v = (v / (v @ row)).to(torch.float32)
            torch.testing.assert_close(found[ridge].v[index], v, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found[ridge].u[index], row.to(torch.float32))


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=64)])
def test_a_writer_keeps_its_sums_wherever_the_others_have_theirs(
    make: Callable[..., Moments],
) -> None:
    tokens = outputs(50)
    alone, mixed = make(1, D), make(3, D, devices=["meta", "cpu", "meta"])
    for moments, index in ((alone, 0), (mixed, 1)):
        moments.add(index, tokens, 2.0)
    if make is ExactMoments:
        assert torch.equal(alone.system(0).matrix(), mixed.system(1).matrix())
    assert alone.system(0).variance == mixed.system(1).variance
    assert {one.device.type for one in mixed._powers} == {"meta", "cpu"}
