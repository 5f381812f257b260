"""Second moments of writers' outputs, streamed, and linear systems in them.

Two forms. Exact: S as sums of outer products, d² numbers a writer. Sketched: a matrix of a few rows
whose Gram matrix is S in expectation (the count sketch of Charikar et al. 2002, as a sketch of matrices
in Clarkson and Woodruff 2013, arXiv 1207.6365), for models whose S would not fit. Whatever is asked of
them afterwards is asked in the same way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from excise.doubles import doubles, doubles_device


class Moments(ABC):
    """Sums over tokens: counts, means, and what the second moment is made from.

    Centred questions are about the covariance S − μμᵀ, the others about S itself.
    """

    def __init__(self, writers: int, dimension: int) -> None:
        self.writers, self.dimension = writers, dimension
        self._counts = [0.0] * writers
        self._heard = [0] * writers
        self._sums = torch.zeros(writers, dimension, dtype=torch.float64)
        self._powers = [0.0] * writers

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of a writer, each counted `weight` times."""
        tokens = tokens.to(torch.float32)
        self._counts[index] += weight * len(tokens)
        self._heard[index] += len(tokens)
        exact = doubles(tokens)
        self._sums[index] += weight * exact.sum(0).cpu()
        self._powers[index] += weight * float(exact.square().sum())
        self._add_products(index, tokens, weight)

    def count(self, index: int) -> float:
        """Tokens of a writer, each as often as it counts."""
        return self._counts[index]

    def heard(self, index: int) -> int:
        """Tokens that were added of a writer, whatever they count: what there is to estimate from."""
        return self._heard[index]

    def mean(self, index: int) -> Tensor:
        """μ [d], float64."""
        return self._sums[index] / max(1.0, self._counts[index])

    def variance(self, index: int, *, centred: bool) -> float:
        """Mean of the diagonal of S, or of the covariance."""
        power = self._powers[index] / max(1.0, self._counts[index])
        if centred:
            power -= float(self.mean(index).square().sum())
        return max(0.0, power) / self.dimension

    def solve(self, index: int, right: Tensor, ridge: float, *, centred: bool) -> Tensor:
        """(S + ρ·mean(diag S)·I)⁻¹ right, float64; S is the covariance where `centred`.

        right: [d]. A writer that was silent has S = 0: any ridge then gives a multiple of `right`.
        """
        variance = self.variance(index, centred=centred)
        shift = ridge * variance if variance > 0 else 1.0
        right = right.to(torch.float64)
        if not centred:
            return self._solve(index, right.unsqueeze(1), shift).squeeze(1)
        # Sherman and Morrison 1950: what subtracting μμᵀ does to the solution.
        mean = self.mean(index)
        solved = self._solve(index, torch.stack([right, mean], 1), shift)
        plain, of_mean = solved.unbind(1)
        return plain + of_mean * (mean @ plain) / (1 - mean @ of_mean)

    @abstractmethod
    def matrix(self, index: int, *, centred: bool) -> Tensor:
        """S, or the covariance, whole: [d, d], float64."""

    @abstractmethod
    def effective_dimension(self, index: int, ridge: float) -> float:
        """tr S (S + ρ·mean(diag S)·I)⁻¹: the directions in which S outweighs the ridge.

        Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, eq. 3.50.
        """

    @abstractmethod
    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None: ...

    @abstractmethod
    def _solve(self, index: int, right: Tensor, shift: float) -> Tensor:
        """(S + shift·I)⁻¹ right for right [d, k]."""


class ExactMoments(Moments):
    """Sums of outer products: products in float32, sums in float64, because sums are what loses digits."""

    def __init__(self, writers: int, dimension: int, device: torch.device | str = "cpu") -> None:
        super().__init__(writers, dimension)
        # Taken once and filled in place: this is the largest thing that a search ever allocates.
        self._products = torch.zeros(
            writers, dimension, dimension, dtype=torch.float64, device=doubles_device(device)
        )

    def matrix(self, index: int, *, centred: bool) -> Tensor:
        """See `Moments`."""
        second = self._products[index].cpu() / max(1.0, self._counts[index])
        return second - torch.outer(self.mean(index), self.mean(index)) if centred else second

    def effective_dimension(self, index: int, ridge: float) -> float:
        """See `Moments`."""
        shift = ridge * self.variance(index, centred=False)
        factor = self._factor(index, shift)
        return self.dimension - shift * float(torch.cholesky_inverse(factor).trace())

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        products = (tokens.T @ tokens).to(self._products.device)
        self._products[index].add_(products, alpha=weight)

    def _factor(self, index: int, shift: float) -> Tensor:
        shifted = self._products[index] / max(1.0, self._counts[index])
        shifted.diagonal().add_(shift)
        factor: Tensor = torch.linalg.cholesky(shifted)
        return factor

    def _solve(self, index: int, right: Tensor, shift: float) -> Tensor:
        factor = self._factor(index, shift)
        solved: Tensor = torch.cholesky_solve(right.to(factor.device), factor).cpu()
        return solved


class SketchedMoments(Moments):
    """Each token is added, with a random sign, to one of `rows` rows.

    The error of a quadratic form falls as 1/√rows, and heavy tokens are never missed, as a sample of tokens
    would miss them. Memory: rows × d float32 numbers a writer. S stands for its sketch in every answer.
    """

    def __init__(self, writers: int, dimension: int, rows: int, seed: int = 0) -> None:
        super().__init__(writers, dimension)
        self._sketch = torch.zeros(writers, rows, dimension)
        self._generators = [torch.Generator().manual_seed(seed + index) for index in range(writers)]

    def matrix(self, index: int, *, centred: bool) -> Tensor:
        """See `Moments`."""
        scaled = self._scaled(index)
        second = scaled.T @ scaled
        return second - torch.outer(self.mean(index), self.mean(index)) if centred else second

    def effective_dimension(self, index: int, ridge: float) -> float:
        """See `Moments`."""
        shift = ridge * self.variance(index, centred=False)
        scaled = self._scaled(index)
        gram = scaled @ scaled.T
        return float(torch.linalg.solve(gram + shift * torch.eye(len(gram)), gram).trace())

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        generator, rows = self._generators[index], self._sketch.shape[1]
        buckets = torch.randint(0, rows, (len(tokens),), generator=generator)
        signs = torch.randint(0, 2, (len(tokens), 1), generator=generator) * 2.0 - 1.0
        self._sketch[index].index_add_(0, buckets, tokens.cpu() * signs * weight**0.5)

    def _scaled(self, index: int) -> Tensor:
        return self._sketch[index].to(torch.float64) / math.sqrt(max(1.0, self._counts[index]))

    def _solve(self, index: int, right: Tensor, shift: float) -> Tensor:
        # Woodbury 1950: a system as large as the sketch has rows, not as the output is wide.
        scaled = self._scaled(index)
        gram = scaled @ scaled.T
        gram.diagonal().add_(shift)
        inner = torch.cholesky_solve(scaled @ right, torch.linalg.cholesky(gram))
        solved: Tensor = (right - scaled.T @ inner) / shift
        return solved
