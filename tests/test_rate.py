"""The rate of matrix products, by which a model's data type is chosen on a CPU."""

from __future__ import annotations

import pytest
import torch

from excise.models.rate import matrix_rate


@pytest.mark.parametrize(("per_second", "sizes"), [(1e10, 2), (1e12, 4), (1e16, 5)])
def test_the_matrix_rate_is_that_of_the_fastest_product(
    per_second: float, sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of a known rate, on which every other product is held up."""
    taken: list[tuple[int, float]] = []

    def product(left: torch.Tensor, right: torch.Tensor, in_blocks: bool) -> float:
        size = len(left)
        seconds = 2 * size**3 / per_second * (3 if len(taken) % 2 == 0 else 1)
        taken.append((size, seconds))
        return seconds

    monkeypatch.setattr("excise.models.rate._product", product)
    rate = matrix_rate(torch.float32, torch.device("cpu"), seconds=0.3)
    assert rate == pytest.approx(per_second)
    assert sorted({size for size, _ in taken}) == [256 * 2**index for index in range(sizes)]
    assert sum(seconds for _, seconds in taken) < 0.6


def test_the_matrix_rate_is_in_operations_a_second() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        # Between a pocket calculator and a room full of machines: another unit is out of both.
        assert 1e6 < matrix_rate(dtype, torch.device("cpu"), seconds=0.001) < 1e15
