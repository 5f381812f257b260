"""Second moments S of writers' outputs, summed token by token, and linear systems with the matrix S.

There are two forms. Exact: S as a sum of outer products, d² numbers for each writer. Sketched: a matrix of a
few rows whose Gram matrix is S in expectation (the count sketch of Charikar et al. 2002, as a sketch of
matrices in Clarkson and Woodruff 2013, arXiv 1207.6365), for models whose S would not fit into memory. Both
forms have the same interface.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from excise.devices.transfers import as_float64, float64_device

Device = torch.device | str


class Moments(ABC):
    """Sums over tokens, from which the second moment S of each writer is computed.

    The sums of a writer are on the device of its outputs; they are copied to the host only when needed.
    """

    def __init__(
        self, writers: int, dimension: int, devices: Device | Sequence[Device] = "cpu"
    ) -> None:
        """devices: of the writers' outputs; one device for all writers, or one for each."""
        self.writers, self._dimension = writers, dimension
        given = [devices] * writers if isinstance(devices, (str, torch.device)) else devices
        self._devices = [torch.device(device) for device in given]
        # For each writer: the sum of its tokens' weights, and their number.
        self.counts, self.token_counts = [0.0] * writers, [0] * writers
        self._powers = _zeros([float64_device(each) for each in self._devices], dtype=torch.float64)

    def add(self, index: int, tokens: Tensor, weight: float = 1.0) -> None:
        """Add `tokens` [n, d] of a writer, each counted `weight` times."""
        tokens = tokens.to(torch.float32)
        self.counts[index] += weight * len(tokens)
        self.token_counts[index] += len(tokens)
        power = as_float64(tokens).square().sum()
        self._powers[index] += weight * power.to(self._powers[index].device)
        self._add_products(index, tokens, weight)

    @abstractmethod
    def system(self, index: int) -> System:
        """Linear systems with the current second moment of a writer."""

    @abstractmethod
    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None: ...

    def _known(self, index: int) -> tuple[float, float]:
        """The mean of the diagonal of S, and the count."""
        count = max(1.0, self.counts[index])
        power = float(self._powers[index] / count)
        return max(0.0, power) / self._dimension, count


class System(ABC):
    """Linear systems with the second moment S of one writer.

    The slow steps that do not depend on the ridge are computed once. All computation is on the device of the
    writer's outputs (on the host, if that device has no float64), and so are the results.
    """

    def __init__(self, variance: float, kept: Tensor) -> None:
        """variance: mean of the diagonal of S. kept: S, or its sketch, float64."""
        self.variance, self._kept = variance, kept

    def solve(self, right: Tensor, ridge: float) -> Tensor:
        """(S + ρ·mean(diag S)·I)⁻¹ right, float64.

        right: [d]. If all outputs of the writer were zero, S = 0, and any ridge gives a multiple of `right`.
        """
        shift = ridge * self.variance if self.variance > 0 else 1.0
        right = right.to(self._kept.device).to(torch.float64)
        return self._solve(right.unsqueeze(1), shift).squeeze(1)

    @abstractmethod
    def matrix(self) -> Tensor:
        """The whole matrix S: [d, d], float64."""

    @abstractmethod
    def effective_dimension(self, ridge: float) -> float:
        """tr S (S + ρ·mean(diag S)·I)⁻¹: the number of directions in which S is larger than the ridge.

        Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, eq. 3.50.
        """

    @abstractmethod
    def _solve(self, right: Tensor, shift: float) -> Tensor:
        """(S + shift·I)⁻¹ right for right [d, k]."""


class ExactMoments(Moments):
    """Sums of outer products: products in float32, sums in float64, because long sums lose digits."""

    def __init__(
        self, writers: int, dimension: int, devices: Device | Sequence[Device] = "cpu"
    ) -> None:
        super().__init__(writers, dimension, devices)
        places = [float64_device(device) for device in self._devices]
        self._products = _zeros(places, dimension, dimension, dtype=torch.float64)

    def system(self, index: int) -> System:
        """See `Moments`."""
        variance, count = self._known(index)
        return _ExactSystem(variance, self._products[index] / count)

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        products = (tokens.T @ tokens).to(self._products[index].device)
        self._products[index].add_(products, alpha=weight)


class _ExactSystem(System):
    """kept: S itself, [d, d]."""

    def effective_dimension(self, ridge: float) -> float:
        """See `System`."""
        shift = ridge * self.variance
        inverse = torch.cholesky_inverse(_factor(self._kept, shift))
        return len(self._kept) - shift * float(inverse.trace())

    def matrix(self) -> Tensor:
        """See `System`."""
        return self._kept

    def _solve(self, right: Tensor, shift: float) -> Tensor:
        solved: Tensor = torch.cholesky_solve(right, _factor(self._kept, shift))
        return solved


class SketchedMoments(Moments):
    """Each token is added, with a random sign, to one of `rows` rows.

    The error of a quadratic form decreases as 1/√rows. A sample of tokens could miss tokens with large
    outputs; a sketch includes every token. Memory: rows × d float32 numbers for each writer. All results use
    the Gram matrix of the sketch in place of S.
    """

    def __init__(
        self, writers: int, dimension: int, rows: int, devices: Device | Sequence[Device] = "cpu"
    ) -> None:
        super().__init__(writers, dimension, devices)
        self._rows = rows
        self._sketch = _zeros(self._devices, rows, dimension, dtype=torch.float32)
        # Drawn on the host, so that a sketch does not depend on the device.
        self._generators = [torch.Generator().manual_seed(index) for index in range(writers)]

    def system(self, index: int) -> System:
        """See `Moments`."""
        variance, count = self._known(index)
        return _SketchedSystem(variance, as_float64(self._sketch[index]) / math.sqrt(count))

    def _add_products(self, index: int, tokens: Tensor, weight: float) -> None:
        generator, sketch = self._generators[index], self._sketch[index]
        buckets = torch.randint(0, self._rows, (len(tokens),), generator=generator)
        signs = torch.randint(0, 2, (len(tokens), 1), generator=generator) * 2.0 - 1.0
        buckets = buckets.to(sketch.device)
        signed = (tokens * signs.to(tokens.device) * weight**0.5).to(sketch.device)
        if sketch.device.type == "cpu":
            sketch.index_add_(0, buckets, signed)
        else:
            # On GPUs, index_add_ adds in a random order; index_put_ with accumulate sorts first.
            sketch.index_put_((buckets,), signed, accumulate=True)


class _SketchedSystem(System):
    """kept: the sketch [row, d]; keptᵀ kept replaces S."""

    @cached_property
    def _gram(self) -> Tensor:
        return self._kept @ self._kept.T

    def effective_dimension(self, ridge: float) -> float:
        """See `System`."""
        gram, shift = self._gram, ridge * self.variance
        identity = torch.eye(len(gram), device=gram.device)
        return float(torch.linalg.solve(gram + shift * identity, gram).trace())

    def matrix(self) -> Tensor:
        """See `System`."""
        return self._kept.T @ self._kept

    def _solve(self, right: Tensor, shift: float) -> Tensor:
        # Woodbury 1950: a system of size rows × rows instead of d × d.
        inner = torch.cholesky_solve(self._kept @ right, _factor(self._gram, shift))
        solved: Tensor = (right - self._kept.T @ inner) / shift
        return solved


def _factor(matrix: Tensor, shift: float) -> Tensor:
    """The Cholesky factor of matrix + shift·I."""
    shifted = matrix.clone()
    shifted.diagonal().add_(shift)
    factor: Tensor = torch.linalg.cholesky(shifted)
    return factor


def _zeros(devices: Sequence[torch.device], *shape: int, dtype: torch.dtype) -> list[Tensor]:
    """Zeros of `shape` for each writer on its device, in one allocation for each device.

    They are the largest tensors of a search, and the allocator returns one large piece to the system when it
    is freed.
    """
    pieces = {
        device: iter(torch.zeros(count, *shape, dtype=dtype, device=device))
        for device, count in Counter(devices).items()
    }
    return [next(pieces[device]) for device in devices]
