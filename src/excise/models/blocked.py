"""Weights of linear layers in the order in which the processor's matrix products read them.

PyTorch's products on a CPU take a matrix as it lies, and copy it into blocks that fit the registers, every
time anew. With few rows that copy is much of the work. oneDNN, which is part of PyTorch, takes weights that
lie in blocks already: the same numbers in another order, put back exactly at any time. What it brings is
measured in bench/layout.py. A layer stays the object that it is, so that hooks and references hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from excise.undocumented import blocks_layout, product, reordered

_SMALLEST = 2**16
"""Matrices of fewer numbers stay as they are: calling the product costs more than what it does."""
_PROBE = (64, 64)
_DTYPES = (torch.float32, torch.bfloat16)


def is_blocked(tensor: Tensor) -> bool:
    """True if the numbers lie in blocks: `to_dense` gives the tensor that they came from."""
    return bool(tensor.layout == blocks_layout())


def blocked(weight: Tensor) -> Tensor:
    """A copy of a matrix [out, in] on the CPU, in blocks. Raises RuntimeError if this machine cannot."""
    return reordered(weight)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` with a weight in blocks: values [..., in] to [..., out]."""
    return product(values, weight, bias)


class _Linear(torch.autograd.Function):
    """The product for those who want gradients for its input; weights have none."""

    @staticmethod
    def forward(context, values, weight, bias):  # type: ignore[no-untyped-def]
        context.weight = weight
        return linear(values, weight, bias)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient @ context.weight.to_dense(), None, None


class BlockedLinear(nn.Linear):
    """What a linear layer is while oneDNN multiplies its weight, in blocks. It is not to be trained."""

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        if torch.is_grad_enabled() and input.requires_grad:
            output: Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return output
        return linear(input, self.weight, self.bias)


class SharedLinear(BlockedLinear):
    """What a layer is whose weight is a table of embeddings too, read row by row: it stays as it lies.

    oneDNN multiplies it all the same: in float32 it copies less of it than PyTorch's own product does.
    """


def works(dtype: torch.dtype) -> bool:
    """True if this machine multiplies with blocks of this data type, and rightly."""
    if dtype not in _DTYPES or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.no_grad():
        weight, values = (
            torch.randn(_PROBE, generator=torch.Generator().manual_seed(seed)).to(dtype)
            for seed in (0, 1)
        )
        try:
            found = linear(values, blocked(weight), None)
        except (RuntimeError, AttributeError):
            # Not compiled in, or not for this processor: then there is nothing to be had here.
            return False
        exact = values.double() @ weight.double().T
        lengths = torch.outer(values.double().norm(dim=1), weight.double().norm(dim=1))
        # A sum of n products that round at random is off by √n units in the last place, bfloat16's by fewer.
        rounding = _PROBE[1] ** 0.5 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
        return bool(((found - exact).abs() <= rounding * lengths).all())


def blockable(model: nn.Module) -> list[nn.Linear]:
    """The linear layers on the CPU whose weights can lie in blocks, where this machine works with them.

    Not: small ones, shared ones, ones that are to be trained, ones with a forward of their own (accelerate
    brings their weights from elsewhere), and classes of their own.
    """
    return _multiplied(model)[0]


def _multiplied(model: nn.Module) -> tuple[list[nn.Linear], list[nn.Linear]]:
    """The layers that oneDNN can multiply: those with a weight of their own, and those that share one."""
    uses = Counter(
        id(tensor) for module in model.modules() for tensor in module.parameters(recurse=False)
    )
    plain = [
        module for module in model.modules() if type(module) is nn.Linear and _is_plain(module)
    ]
    fitting = {dtype for dtype in {layer.weight.dtype for layer in plain} if works(dtype)}
    found = [layer for layer in plain if layer.weight.dtype in fitting]
    return (
        [layer for layer in found if uses[id(layer.weight)] == 1],
        [layer for layer in found if uses[id(layer.weight)] > 1],
    )


def block(model: nn.Module) -> int:
    """Put the weights of `blockable` layers into blocks, one after the other; returns how many."""
    layers, sharing = _multiplied(model)
    for layer in layers:
        _become(layer, BlockedLinear)
    for layer in sharing:
        # bfloat16's products of PyTorch are oneDNN's already.
        if layer.weight.dtype == torch.float32:
            _become(layer, SharedLinear)
    if layers:
        _leave_files(model)
    return len(layers)


def unblock(model: nn.Module) -> list[tuple[nn.Linear, type[nn.Linear]]]:
    """Put every weight back as it lay, to the bit, one after the other; returns what each layer was."""
    changed: list[tuple[nn.Linear, type[nn.Linear]]] = [
        (one, type(one)) for one in model.modules() if isinstance(one, BlockedLinear)
    ]
    for layer, _ in changed:
        if is_blocked(layer.weight):
            layer.weight = nn.Parameter(layer.weight.detach().to_dense(), requires_grad=False)
        layer.__class__ = nn.Linear
    return changed


@contextmanager
def in_ordinary_order(model: nn.Module) -> Iterator[None]:
    """Within, weights lie as PyTorch has them, for whoever takes them from the layers themselves."""
    changed = unblock(model)
    try:
        yield
    finally:
        for layer, kind in changed:
            _become(layer, kind)


def _become(layer: nn.Linear, kind: type[nn.Linear]) -> None:
    if kind is BlockedLinear:
        layer.weight = nn.Parameter(blocked(layer.weight.detach()), requires_grad=False)
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


def _leave_files(model: nn.Module) -> None:
    """Copy what is left of a mapped checkpoint into memory if it is the smaller part, so that the map goes.

    One tensor in it holds all of it, and its pages count as memory of the process.
    """
    held = [*model.parameters(), *model.buffers()]
    rest = [one for one in held if one.device.type == "cpu" and not is_blocked(one)]
    if 2 * sum(map(_bytes, rest)) < sum(map(_bytes, held)):
        for tensor in rest:
            tensor.data = tensor.data.clone()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
