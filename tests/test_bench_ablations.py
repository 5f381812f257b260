"""The operators of bench/ablations.py, against dense algebra and one plain forward pass a prompt."""

from __future__ import annotations

import pytest
import torch

from bench.ablations import ABLATIONS, MomentsAndMeans, centred_discriminant, leace
from excise.experiment.train_statistics import TrainPrompts
from excise.kinds import FormerKind
from excise.operators.moments import ExactMoments
from excise.operators.operator import unit
from reference import apply_operator
from test_kinds import D, draw, outputs
from test_train_statistics import heard, source  # noqa: F401


def filled(tokens: torch.Tensor) -> MomentsAndMeans:
    sums = MomentsAndMeans(ExactMoments(1, D))
    for piece in tokens.chunk(3):
        sums.add(0, piece)
    return sums


def covariance(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.T.cov(correction=0)


def test_covariances_are_those_of_all_tokens() -> None:
    tokens = outputs()
    torch.testing.assert_close(
        filled(tokens).covariance(0), covariance(tokens), atol=1e-4, rtol=1e-5
    )
    weighted = MomentsAndMeans(ExactMoments(1, D))
    weighted.add(0, tokens, 5)
    torch.testing.assert_close(
        weighted.covariance(0), covariance(tokens.repeat(5, 1)), atol=1e-4, rtol=1e-5
    )


def test_leace_whitens_projects_and_goes_back() -> None:
    target, control = outputs(60, seed=1) + 0.7 * draw(D, seed=2), outputs(80, seed=3)
    both = torch.cat([target, control])
    delta = (target.mean(0) - control.mean(0)).unsqueeze(0)
    made = leace(delta, filled(both))
    # The paper's own form: whitening, the orthogonal projector there, and back.
    values, vectors = torch.linalg.eigh(covariance(both))
    whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    whitened = unit((whitening @ delta[0]).unsqueeze(0))[0]
    dense = torch.linalg.inv(whitening) @ torch.outer(whitened, whitened) @ whitening
    torch.testing.assert_close(
        torch.outer(made.u[0], made.v[0]).double(), dense, atol=1e-4, rtol=1e-3
    )
    # No linear probe is left anything: the classes' means agree.
    u, v = made.u[0].double(), made.v[0].double()
    gap = apply_operator(target, u, v, 1.0).mean(0) - apply_operator(control, u, v, 1.0).mean(0)
    torch.testing.assert_close(gap, torch.zeros(D).double(), atol=1e-5, rtol=0)


def test_leace_is_the_centred_discriminant_of_the_same_tokens_without_a_ridge() -> None:
    delta, sums = draw(1, D), filled(outputs())
    there, here = leace(delta, sums), centred_discriminant(delta, sums, 1e-9)
    torch.testing.assert_close(there.v, here.v, atol=1e-4, rtol=1e-3)


def expected(kind: FormerKind, source: TrainPrompts, ridge: float) -> torch.Tensor:  # noqa: F811
    """v of the first writer, up to its length."""
    target, control = (
        heard(source, [list(one) for one in prompts]) for prompts in (source.target, source.control)
    )
    ends = [torch.stack([tokens[-1] for tokens in found]) for found in (target, control)]
    delta = ends[0].mean(0) - ends[1].mean(0)
    if kind == "leace":
        return torch.linalg.pinv(covariance(torch.cat(ends)), rtol=1e-6, hermitian=True) @ delta
    every = torch.cat(control)
    second = covariance(every) if kind == "discriminant_centred" else every.T @ every / len(every)
    return torch.linalg.solve(
        second + ridge * second.diagonal().mean() * torch.eye(len(second)), delta
    )


@pytest.mark.parametrize("kind", sorted(set(ABLATIONS) - {"discriminant_answers"}))
def test_operators_are_those_of_the_prompts(kind: FormerKind, source: TrainPrompts) -> None:  # noqa: F811
    made, v = ABLATIONS[kind](source, 4, 0.03), expected(kind, source, 0.03)
    assert float(torch.cosine_similarity(made.v[0].double(), v, dim=0)) == pytest.approx(
        1, abs=1e-3
    )


def test_answers_change_the_operator(source: TrainPrompts) -> None:  # noqa: F811
    plain, spoken = (
        ABLATIONS[kind](source, 4, 0.03) for kind in ("discriminant_tokens", "discriminant_answers")
    )
    torch.testing.assert_close(plain.u, spoken.u)
    assert not torch.allclose(plain.v, spoken.v, atol=1e-3)
