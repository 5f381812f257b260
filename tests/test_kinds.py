"""Kinds made from writers' own outputs; second moments exact, centred and sketched; against dense algebra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
import torch

from excise.kinds import FACTS, KINDS, Kind, Statistics
from excise.operators.kinds import LOCAL_OPERATORS, local_operator, local_operators
from excise.operators.moments import ExactMoments, Moments, SketchedMoments
from excise.operators.operator import apply, unit

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


def second_moment(tokens: torch.Tensor, *, centred: bool) -> torch.Tensor:
    return tokens.T.cov(correction=0) if centred else tokens.T @ tokens / len(tokens)


def test_every_kind_has_its_facts_and_its_function() -> None:
    assert set(FACTS) == set(KINDS) == set(get_args(Kind))
    assert {kind for kind in KINDS if not FACTS[kind].of_residuals} == set(LOCAL_OPERATORS)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", [ExactMoments, SketchedMoments])
def test_solutions_are_those_of_the_matrix(kind: type, centred: bool) -> None:
    tokens, right = outputs(), draw(D, seed=1)
    moments = filled(kind(1, D) if kind is ExactMoments else kind(1, D, 64), tokens)
    matrix = moments.matrix(0, centred=centred)
    ridge = 0.03 * moments.variance(0, centred=centred)
    expected = torch.linalg.solve(matrix + ridge * torch.eye(D), right)
    torch.testing.assert_close(
        moments.solve(0, right, 0.03, centred=centred), expected, atol=1e-6, rtol=1e-5
    )
    shifted = matrix + 0.03 * moments.variance(0, centred=False) * torch.eye(D)
    if not centred:
        trace = float(torch.linalg.solve(shifted, matrix).trace())
        assert moments.effective_dimension(0, 0.03) == pytest.approx(trace, rel=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_exact_moments_are_those_of_all_tokens(centred: bool) -> None:
    tokens = outputs()
    moments = filled(ExactMoments(1, D), tokens)
    expected = second_moment(tokens, centred=centred)
    torch.testing.assert_close(moments.matrix(0, centred=centred), expected, atol=1e-4, rtol=1e-5)
    assert moments.variance(0, centred=centred) == pytest.approx(float(expected.trace()) / D, 1e-5)
    torch.testing.assert_close(moments.mean(0), tokens.mean(0), atol=1e-6, rtol=1e-5)
    assert moments.count(0) == 400


def test_a_weight_counts_tokens_several_times() -> None:
    tokens = outputs(20)
    weighted, repeated = ExactMoments(1, D), ExactMoments(1, D)
    weighted.add(0, tokens, 5)
    filled(repeated, tokens.repeat(5, 1))
    torch.testing.assert_close(
        weighted.matrix(0, centred=True), repeated.matrix(0, centred=True), atol=1e-4, rtol=1e-5
    )
    sketched = SketchedMoments(1, D, 5000)
    sketched.add(0, tokens, 5)
    torch.testing.assert_close(
        sketched.matrix(0, centred=False), repeated.matrix(0, centred=False), atol=0.2, rtol=0.1
    )


def test_a_sketch_errs_less_the_more_rows_it_has_and_its_discriminant_does_no_more_damage() -> None:
    # As in a model: wide outputs whose power lies in few directions.
    width, tokens = 96, 6000
    scales = torch.arange(1, width + 1).double().pow(-1.0)
    data = draw(tokens, width, seed=3) * scales @ torch.linalg.qr(draw(width, width, seed=4)).Q
    delta = draw(1, width, seed=5)
    exact = filled(ExactMoments(1, width), data)
    matrix = exact.matrix(0, centred=False)

    def damage(moments: Moments) -> float:
        made = local_operator("discriminant", delta, moments, 0.01)
        return float(made.v[0].double() @ matrix @ made.v[0].double())

    errors: list[float] = []
    for rows in (48, 384, 3072):
        runs = [filled(SketchedMoments(1, width, rows, seed), data) for seed in range(0, 50, 10)]
        off = [(one.matrix(0, centred=False) - matrix).norm() / matrix.norm() for one in runs]
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
    made = local_operator("discriminant", delta, filled(ExactMoments(2, D), *tokens), ridge)
    for index in range(2):
        second = second_moment(tokens[index], centred=False)
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
        return float((tokens - apply(tokens, u, v, 1.0)).square().sum())

    made = local_operator("discriminant", delta, filled(ExactMoments(1, D), tokens), 1e-9)
    best = damage(made.u[0].double(), made.v[0].double())
    direction = unit(delta[0])
    assert best < damage(direction, direction)
    for seed in range(20):
        v = made.v[0].double() + 0.05 * draw(D, seed=seed)
        assert best <= damage(direction, v / (v @ direction)) * (1 + 1e-6)


def test_leace_whitens_projects_and_goes_back() -> None:
    target, control = outputs(60, seed=1) + 0.7 * draw(D, seed=2), outputs(80, seed=3)
    both = torch.cat([target, control])
    delta = (target.mean(0) - control.mean(0)).unsqueeze(0)
    made = local_operator("leace", delta, filled(ExactMoments(1, D), both), 0.0)
    # The paper's own form: whitening, the orthogonal projector there, and back.
    values, vectors = torch.linalg.eigh(second_moment(both, centred=True))
    whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    whitened = unit((whitening @ delta[0]).unsqueeze(0))[0]
    dense = torch.linalg.inv(whitening) @ torch.outer(whitened, whitened) @ whitening
    torch.testing.assert_close(
        torch.outer(made.u[0], made.v[0]).double(), dense, atol=1e-4, rtol=1e-3
    )
    # No linear probe is left anything: the classes' means agree.
    u, v = made.u[0].double(), made.v[0].double()
    gap = apply(target, u, v, 1.0).mean(0) - apply(control, u, v, 1.0).mean(0)
    torch.testing.assert_close(gap, torch.zeros(D).double(), atol=1e-5, rtol=0)


def test_leace_is_the_centred_discriminant_of_the_same_tokens_without_a_ridge() -> None:
    delta, moments = draw(1, D), filled(ExactMoments(1, D), outputs())
    there = local_operator("leace", delta, moments, 0.0)
    here = local_operator("discriminant_centred", delta, moments, 1e-9)
    torch.testing.assert_close(there.v, here.v, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", sorted(LOCAL_OPERATORS))
def test_no_difference_and_silence_are_borne(kind: Kind) -> None:
    moments = filled(ExactMoments(1, D), outputs())
    made = local_operator(kind, torch.zeros(1, D), moments, 0.01)
    y = draw(3, D)
    torch.testing.assert_close(apply(y, made.u[0].double(), made.v[0].double(), 1.0), y)
    silent = local_operator(kind, draw(1, D), filled(ExactMoments(1, D), torch.zeros(9, D)), 0.01)
    if kind == "leace":
        assert not silent.u.any()
    else:
        torch.testing.assert_close(silent.u, silent.v)


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=64)])
def test_all_ridges_of_all_kinds_together_are_each_alone(
    make: Callable[[int, int], Moments], monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = draw(2, D, seed=1), draw(2, D, seed=2)
    moments: dict[Statistics, Moments] = {}
    for place, name in enumerate(("tokens", "ends", "answers")):
        both = [outputs(200, seed=seed + place) for seed in (3, 30)]
        moments[name] = filled(make(2, D), *both)
    kinds: tuple[Kind, ...] = ("discriminant", "discriminant_centred", "discriminant_answers")
    asked: dict[tuple[Kind, float | None], torch.Tensor] = {
        (kind, ridge): deltas[place % 2]
        for kind in kinds
        for place, ridge in enumerate((0.003, 0.01, 0.3))
    }
    if make is ExactMoments:
        # A sketch less the exact mean's square may have negative eigenvalues, which a plain solve keeps.
        asked["leace", None] = deltas[0]
    built: list[int] = []
    system = type(moments["tokens"]).system
    monkeypatch.setattr(
        type(moments["tokens"]),
        "system",
        lambda self, index: built.append(index) or system(self, index),
    )
    found = local_operators(asked, moments)
    # The two kinds that look at tokens share a system.
    statistics = len({FACTS[kind].statistics for kind, _ in asked})
    assert sorted(built) == [0] * statistics + [1] * statistics
    monkeypatch.undo()
    for (kind, ridge), delta in asked.items():
        facts, sums = FACTS[kind], moments[FACTS[kind].statistics]
        made = found[kind, ridge]
        for index, row in enumerate(unit(delta)):
            matrix = sums.matrix(index, centred=facts.centred)
            if ridge is None:
                v = torch.linalg.solve(matrix, row)
            else:
                shift = ridge * sums.variance(index, centred=facts.centred)
                v = torch.linalg.solve(matrix + shift * torch.eye(D), row)
            v = (v / (v @ row)).to(torch.float32)
            torch.testing.assert_close(made.v[index], v, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(made.u[index], row.to(torch.float32))


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=64)])
def test_a_writer_keeps_its_sums_wherever_the_others_have_theirs(
    make: Callable[..., Moments],
) -> None:
    tokens = outputs(50)
    alone, mixed = make(1, D), make(3, D, devices=["meta", "cpu", "meta"])
    for moments, index in ((alone, 0), (mixed, 1)):
        moments.add(index, tokens, 2.0)
    if make is ExactMoments:
        assert torch.equal(alone.matrix(0, centred=True), mixed.matrix(1, centred=True))
    assert torch.equal(alone.mean(0), mixed.mean(1))
    assert {one.device.type for one in mixed._sums} == {"meta", "cpu"}
