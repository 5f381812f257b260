"""Second moments of writers' outputs, streamed, and linear systems in them.

Two forms. Exact: S as sums of outer products, d² numbers a writer. Sketched: a matrix of a few rows
whose Gram matrix is S in expectation (the count sketch of Charikar et al. 2002, as a sketch of matrices
in Clarkson and Woodruff 2013, arXiv 1207.6365), for models whose S would not fit. Whatever is asked of
them afterwards is asked in the same way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from excise.devices.doubles import doubles, doubles_device

Device = torch.device | str


class Moments(ABC):
    """Sums over tokens: counts, means, and what the second moment is made from.

    Sums are kept on the device where their writer's outputs lie; nothing goes to the host before it is asked
    for. Centred questions are about the covariance S − μμᵀ, the others about S itself.
    """

    def __init__(
        self, writers: int, dimension: int, devices: Device | Sequence[Device] = "cpu"
    ) -> None:
        """devices: where each writer's outputs lie; one for all, or one for each."""
        self.writers, self.dimension = writers, dimension
        given = [devices] * writers if isinstance(devices, (str, torch.device)) else devices
        self._devices = [torch.device(device) for device in given]
        self._counts = [0.0] * writers
        self._heard = [0] * writers
        exact = [doubles_device(device) for device in self._devices]
        self._sums = _zeros(exact, dimension, dtype=torch.float64)
        self._powers = _zeros(exact, dtype=torch.float64)

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of a writer, each counted `weight` times."""
        tokens = tokens.to(torch.float32)
        self._counts[index] += weight * len(tokens)
        self._heard[index] += len(tokens)
        exact, place = doubles(tokens), self._sums[index].device
        self._sums[index] += weight * exact.sum(0).to(place)
        self._powers[index] += weight * exact.square().sum().to(place)
        self._add_products(index, tokens, weight)

    def count(self, index: int) -> float:
        """Tokens of a writer, each as often as it counts."""
        return self._counts[index]

    def heard(self, index: int) -> int:
        """Tokens that were added of a writer, whatever they count: what there is to estimate from."""
        return self._heard[index]

    def mean(self, index: int) -> Tensor:
        """μ [d], float64."""
        return self._sums[index].cpu() / max(1.0, self._counts[index])

    def variance(self, index: int, *, centred: bool) -> float:
        """Mean of the diagonal of S, or of the covariance."""
        return self.system(index).variance(centred=centred)

    def solve(self, index: int, right: Tensor, ridge: float, *, centred: bool) -> Tensor:
        """One solution of `System.solve`, on the host. Whoever has several questions asks the system."""
        return self.system(index).solve(right, ridge, centred=centred).cpu()

    def matrix(self, index: int, *, centred: bool) -> Tensor:
        """S, or the covariance, whole: [d, d], float64, on the host."""
        return self.system(index).matrix(centred=centred).cpu()

    def effective_dimension(self, index: int, ridge: float) -> float:
        """See `System`."""
        return self.system(index).effective_dimension(ridge)

    @abstractmethod
    def system(self, index: int) -> System:
        """Linear systems in the second moment of a writer, as it is now."""

    @abstractmethod
    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None: ...

    def _known(self, index: int) -> tuple[Tensor, Tensor, float]:
        """What a system is made from: mean [d] and mean of squares, where the sums are; the count."""
        count = max(1.0, self._counts[index])
        return self._sums[index] / count, self._powers[index] / count, count


class System(ABC):
    """Linear systems in the second moment S of one writer.

    What costs most of a solution, and does not depend on the ridge, is worked out once. All is done where
    the writer's outputs lie (on the host, if that device knows no float64), and answers stay there.
    """

    def __init__(self, mean: Tensor, power: Tensor) -> None:
        """mean: μ [d], float64. power: mean of the squared lengths of outputs."""
        self._mean, self._dimension = mean, len(mean)
        self._power: float
        self._centre: float
        self._power, self._centre = torch.stack([power, mean.square().sum()]).tolist()

    def variance(self, *, centred: bool) -> float:
        """Mean of the diagonal of S, or of the covariance."""
        power = self._power - self._centre if centred else self._power
        return max(0.0, power) / self._dimension

    def solve(self, right: Tensor, ridge: float, *, centred: bool) -> Tensor:
        """(S + ρ·mean(diag S)·I)⁻¹ right, float64; S is the covariance where `centred`.

        right: [d]. A writer that was silent has S = 0: any ridge then gives a multiple of `right`.
        """
        variance = self.variance(centred=centred)
        shift = ridge * variance if variance > 0 else 1.0
        right = right.to(self._mean.device).to(torch.float64)
        if not centred:
            return self._solve(right.unsqueeze(1), shift).squeeze(1)
        # Sherman and Morrison 1950: what subtracting μμᵀ does to the solution.
        mean = self._mean
        solved = self._solve(torch.stack([right, mean], 1), shift)
        plain, of_mean = solved.unbind(1)
        return plain + of_mean * (mean @ plain) / (1 - mean @ of_mean)

    def matrix(self, *, centred: bool) -> Tensor:
        """S, or the covariance, whole: [d, d], float64."""
        second = self._matrix()
        return second - torch.outer(self._mean, self._mean) if centred else second

    @abstractmethod
    def effective_dimension(self, ridge: float) -> float:
        """tr S (S + ρ·mean(diag S)·I)⁻¹: the directions in which S outweighs the ridge.

        Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, eq. 3.50.
        """

    @abstractmethod
    def _matrix(self) -> Tensor:
        """S whole."""

    @abstractmethod
    def _solve(self, right: Tensor, shift: float) -> Tensor:
        """(S + shift·I)⁻¹ right for right [d, k]."""


class ExactMoments(Moments):
    """Sums of outer products: products in float32, sums in float64, because sums are what loses digits."""

    def __init__(
        self, writers: int, dimension: int, devices: Device | Sequence[Device] = "cpu"
    ) -> None:
        super().__init__(writers, dimension, devices)
        places = [doubles_device(device) for device in self._devices]
        self._products = _zeros(places, dimension, dimension, dtype=torch.float64)

    def system(self, index: int) -> System:
        """See `Moments`."""
        mean, power, count = self._known(index)
        return _ExactSystem(mean, power, self._products[index] / count)

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        products = (tokens.T @ tokens).to(self._products[index].device)
        self._products[index].add_(products, alpha=weight)


class _ExactSystem(System):
    def __init__(self, mean: Tensor, power: Tensor, second: Tensor) -> None:
        super().__init__(mean, power)
        self._second = second

    def effective_dimension(self, ridge: float) -> float:
        """See `System`."""
        shift = ridge * self.variance(centred=False)
        factor = self._factor(shift)
        return self._dimension - shift * float(torch.cholesky_inverse(factor).trace())

    def _matrix(self) -> Tensor:
        return self._second

    def _factor(self, shift: float) -> Tensor:
        shifted = self._second.clone()
        shifted.diagonal().add_(shift)
        factor: Tensor = torch.linalg.cholesky(shifted)
        return factor

    def _solve(self, right: Tensor, shift: float) -> Tensor:
        solved: Tensor = torch.cholesky_solve(right, self._factor(shift))
        return solved


class SketchedMoments(Moments):
    """Each token is added, with a random sign, to one of `rows` rows.

    The error of a quadratic form falls as 1/√rows, and heavy tokens are never missed, as a sample of tokens
    would miss them. Memory: rows × d float32 numbers a writer. S stands for its sketch in every answer.
    """

    def __init__(
        self,
        writers: int,
        dimension: int,
        rows: int,
        seed: int = 0,
        devices: Device | Sequence[Device] = "cpu",
    ) -> None:
        super().__init__(writers, dimension, devices)
        self._rows = rows
        self._sketch = _zeros(self._devices, rows, dimension, dtype=torch.float32)
        # Drawn on the host, so that a sketch is the same one whatever the device.
        self._generators = [torch.Generator().manual_seed(seed + index) for index in range(writers)]

    def system(self, index: int) -> System:
        """See `Moments`."""
        mean, power, count = self._known(index)
        return _SketchedSystem(mean, power, doubles(self._sketch[index]) / math.sqrt(count))

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        generator, sketch = self._generators[index], self._sketch[index]
        buckets = torch.randint(0, self._rows, (len(tokens),), generator=generator)
        signs = torch.randint(0, 2, (len(tokens), 1), generator=generator) * 2.0 - 1.0
        buckets = buckets.to(sketch.device)
        signed = (tokens * signs.to(tokens.device) * weight**0.5).to(sketch.device)
        if sketch.device.type == "cpu":
            sketch.index_add_(0, buckets, signed)
        else:
            # Where many threads add, index_add_ adds in another order each time; this one sorts first.
            sketch.index_put_((buckets,), signed, accumulate=True)


class _SketchedSystem(System):
    def __init__(self, mean: Tensor, power: Tensor, scaled: Tensor) -> None:
        """scaled: [row, d], whose Gram matrix of columns stands for S."""
        super().__init__(mean, power)
        self._scaled = scaled

    @cached_property
    def _gram(self) -> Tensor:
        return self._scaled @ self._scaled.T

    def effective_dimension(self, ridge: float) -> float:
        """See `System`."""
        gram, shift = self._gram, ridge * self.variance(centred=False)
        identity = torch.eye(len(gram), device=gram.device)
        return float(torch.linalg.solve(gram + shift * identity, gram).trace())

    def _matrix(self) -> Tensor:
        return self._scaled.T @ self._scaled

    def _solve(self, right: Tensor, shift: float) -> Tensor:
        # Woodbury 1950: a system as large as the sketch has rows, not as the output is wide.
        gram = self._gram.clone()
        gram.diagonal().add_(shift)
        inner = torch.cholesky_solve(self._scaled @ right, torch.linalg.cholesky(gram))
        solved: Tensor = (right - self._scaled.T @ inner) / shift
        return solved


def _zeros(devices: Sequence[torch.device], *shape: int, dtype: torch.dtype) -> list[Tensor]:
    """Zeros of `shape` for each writer on its device, all of a device in one piece that is taken once.

    These are the largest thing that a search ever allocates, and one large piece goes back to the system.
    """
    found: list[Tensor | None] = [None] * len(devices)
    for device in dict.fromkeys(devices):
        members = [index for index, one in enumerate(devices) if one == device]
        piece = torch.zeros(len(members), *shape, dtype=dtype, device=device)
        for place, index in enumerate(members):
            found[index] = piece[place]
    return [one for one in found if one is not None]
