"""Directions from residuals, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from excise.operators.residual import (
    at_fractional_layer,
    difference,
    geometric_median,
    mean,
    winsorise,
)


def test_difference_of_means_is_a_unit_vector_from_control_to_target() -> None:
    target = torch.tensor([[[3.0, 0.0]], [[5.0, 2.0]]])  # mean (4, 1)
    control = torch.tensor([[[1.0, -3.0]]])  # difference (3, 4), length 5
    direction = difference(mean(target), mean(control), orthogonalise=False)
    torch.testing.assert_close(direction, torch.tensor([[0.6, 0.8]], dtype=torch.float64))


def test_orthogonalised_direction_is_orthogonal_to_the_control_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    target, control = torch.randn(2, 20, 3, 8, generator=generator).unbind()
    direction = difference(mean(target + 1), mean(control + 0.5), orthogonalise=True)
    torch.testing.assert_close(
        (direction * mean(control + 0.5)).sum(-1), torch.zeros(3).double(), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(3).double())


def test_geometric_median_ignores_an_outlier_that_moves_the_mean() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1000.0, 0.5]])
    found = geometric_median(points.unsqueeze(1))[0]
    assert mean(points.unsqueeze(1))[0, 0] > 100
    assert 0.4 < found[0] < 1.0
    assert abs(found[1] - 0.5) < 1e-3


def test_geometric_median_of_a_triangle_sees_its_sides_at_120_degrees() -> None:
    # The Fermat point of an equilateral triangle is its centre.
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)]], dtype=torch.float64)
    expected = torch.tensor([1.0, math.sqrt(3) / 3], dtype=torch.float64)
    torch.testing.assert_close(
        geometric_median(points.unsqueeze(1))[0], expected, atol=1e-6, rtol=0
    )


def test_winsorise_clips_only_what_is_beyond_the_quantile() -> None:
    vector = torch.tensor([[[1.0, -2.0, 3.0, -400.0, 5.0]]])
    # The 75 % quantile of (1, 2, 3, 5, 400) is 5.
    clipped = winsorise(vector, 0.75)
    torch.testing.assert_close(
        clipped, torch.tensor([[[1.0, -2.0, 3.0, -5.0, 5.0]]], dtype=torch.float64)
    )
    assert winsorise(vector, 1.0) is vector


def test_direction_between_layers() -> None:
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(at_fractional_layer(directions, 1.0), directions[1])
    torch.testing.assert_close(at_fractional_layer(directions, 2.0), directions[2])
    half = math.sqrt(0.5)
    torch.testing.assert_close(at_fractional_layer(directions, 0.5), torch.tensor([half, half]))
    torch.testing.assert_close(at_fractional_layer(directions[:1], 0.0), directions[0])
    with pytest.raises(ValueError, match="outside"):
        at_fractional_layer(directions, 2.1)
