"""Prepacked weights: linear layers whose weights lie in the order in which oneDNN multiplies them.

On a CPU, PyTorch's matrix products copy a weight into blocks that fit the registers, at every call. With few
rows that copy is much of the work. oneDNN, which is part of PyTorch, accepts weights that are packed into
these blocks beforehand: the same numbers in another order, which can be restored exactly. bench/prepacked.py
measures the gain. Prepacking keeps the layer objects, so hooks and references stay valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from excise.undocumented import prepack_linear_weight, prepacked_layout, prepacked_linear

_SMALLEST = 2**16
"""Numbers in a matrix. Smaller matrices are not prepacked: the call costs more than the product."""
_PROBE = (64, 64)
_DTYPES = (torch.float32, torch.bfloat16)


def is_prepacked(tensor: Tensor) -> bool:
    """True if the tensor is prepacked; `to_dense` restores the original."""
    return bool(tensor.layout == prepacked_layout())


class _LinearWithGradient(torch.autograd.Function):
    """`prepacked_linear` with a gradient for its input; weights get no gradient."""

    @staticmethod
    def forward(context, values, weight, bias):  # type: ignore[no-untyped-def]
        context.weight = weight
        return prepacked_linear(values, weight, bias)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient @ context.weight.to_dense(), None, None


class PrepackedLinear(nn.Linear):
    """A linear layer with a prepacked weight. It cannot be trained."""

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        if torch.is_grad_enabled() and input.requires_grad:
            output: Tensor = _LinearWithGradient.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return output
        return prepacked_linear(input, self.weight, self.bias)


class SharedOneDnnLinear(PrepackedLinear):
    """A linear layer that oneDNN multiplies, but whose weight is not prepacked.

    Its weight is also the embedding table, which is read row by row. In float32, oneDNN copies less of such a
    weight than PyTorch's own product does.
    """


def can_prepack(dtype: torch.dtype) -> bool:
    """True if this machine multiplies prepacked weights of this data type, with correct results."""
    if dtype not in _DTYPES or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.no_grad():
        weight, values = (
            torch.randn(_PROBE, generator=torch.Generator().manual_seed(seed)).to(dtype)
            for seed in (0, 1)
        )
        try:
            found = prepacked_linear(values, prepack_linear_weight(weight), None)
        except (RuntimeError, AttributeError):
            # PyTorch was built without oneDNN, or oneDNN does not support this processor.
            return False
        exact = values.double() @ weight.double().T
        lengths = torch.outer(values.double().norm(dim=1), weight.double().norm(dim=1))
        # The error of a sum of n randomly rounded products is √n units in the last place.
        rounding = _PROBE[1] ** 0.5 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
        return bool(((found - exact).abs() <= rounding * lengths).all())


def prepackable(model: nn.Module) -> list[nn.Linear]:
    """The linear layers on the CPU that `prepack` prepacks, if this machine can multiply their data type.

    Left out: small weights, shared weights, weights that require gradients, layers with a replaced `forward`
    (accelerate moves their weights in), and subclasses of `nn.Linear`.
    """
    return _supported(model)[0]


def _supported(model: nn.Module) -> tuple[list[nn.Linear], list[nn.Linear]]:
    """The layers that oneDNN can multiply: those with a weight of their own, those with a shared weight."""
    uses = Counter(
        id(tensor) for module in model.modules() for tensor in module.parameters(recurse=False)
    )
    plain = [
        module for module in model.modules() if type(module) is nn.Linear and _is_plain(module)
    ]
    fitting = {dtype for dtype in {layer.weight.dtype for layer in plain} if can_prepack(dtype)}
    found = [layer for layer in plain if layer.weight.dtype in fitting]
    return (
        [layer for layer in found if uses[id(layer.weight)] == 1],
        [layer for layer in found if uses[id(layer.weight)] > 1],
    )


def prepack(model: nn.Module) -> int:
    """Prepack the weights of all `prepackable` layers; returns the number of layers."""
    layers, shared = _supported(model)
    for layer in layers:
        _change_class(layer, PrepackedLinear)
    for layer in shared:
        # In bfloat16, PyTorch's own product already calls oneDNN.
        if layer.weight.dtype == torch.float32:
            _change_class(layer, SharedOneDnnLinear)
    if layers:
        _release_mapped_file(model)
    return len(layers)


def undo_prepacking(model: nn.Module) -> list[tuple[nn.Linear, type[nn.Linear]]]:
    """Restore every weight bit for bit; returns the changed layers with their former classes."""
    changed: list[tuple[nn.Linear, type[nn.Linear]]] = [
        (layer, type(layer)) for layer in model.modules() if isinstance(layer, PrepackedLinear)
    ]
    for layer, _ in changed:
        if is_prepacked(layer.weight):
            layer.weight = nn.Parameter(layer.weight.detach().to_dense(), requires_grad=False)
        layer.__class__ = nn.Linear
    return changed


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """Within the context, all weights have PyTorch's own layout, for code that reads them directly."""
    changed = undo_prepacking(model)
    try:
        yield
    finally:
        for layer, kind in changed:
            _change_class(layer, kind)


def _change_class(layer: nn.Linear, kind: type[nn.Linear]) -> None:
    if kind is PrepackedLinear:
        layer.weight = nn.Parameter(
            prepack_linear_weight(layer.weight.detach()), requires_grad=False
        )
    layer.__class__ = kind


def _is_plain(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
        and weight.numel() >= _SMALLEST
        and not weight.requires_grad
        and "forward" not in vars(layer)
    )


def _release_mapped_file(model: nn.Module) -> None:
    """Copy the other tensors out of a memory-mapped checkpoint if they are less than half of the model.

    A single mapped tensor keeps the whole file mapped, and its pages count as memory of the process.
    """
    tensors = [*model.parameters(), *model.buffers()]
    mapped = [one for one in tensors if one.device.type == "cpu" and not is_prepacked(one)]
    if 2 * sum(one.nbytes for one in mapped) < sum(one.nbytes for one in tensors):
        for tensor in mapped:
            tensor.data = tensor.data.clone()
