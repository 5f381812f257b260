"""Weights of linear layers in the order in which the processor's matrix products read them.

PyTorch's products on a CPU take a matrix as it lies, and copy it into blocks that fit the registers, every
time anew. With few rows that copy is most of the work. oneDNN, which is part of PyTorch, takes weights that
lie in blocks already: the same numbers in another order, put back exactly at any time. What it brings is
measured in bench/layout.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST = 2**16
"""Matrices of fewer numbers stay as they are: calling the product costs more than what it does."""
_PROBE = (64, 64)
_DTYPES = (torch.float32, torch.bfloat16)


def is_blocked(tensor: Tensor) -> bool:
    """True if the numbers lie in blocks: `to_dense` gives the tensor that they came from."""
    return bool(tensor.layout == torch._mkldnn)  # type: ignore[attr-defined]


def blocked(weight: Tensor) -> Tensor:
    """A copy of a matrix [out, in] on the CPU, in blocks. Raises RuntimeError if this machine cannot."""
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return result


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` with a weight in blocks: values [..., in] to [..., out]."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return output


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
    """A linear layer whose weight lies in blocks, and is not to be trained."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(
            layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.train(layer.training)
        self.weight = nn.Parameter(blocked(layer.weight.detach()), requires_grad=False)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        if torch.is_grad_enabled() and input.requires_grad:
            output: Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return output
        return linear(input, self.weight, self.bias)


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
        wanted = functional.linear(values.double(), weight.double())
        close = torch.finfo(dtype).eps * values.double().norm() * weight.double().norm()
        return bool((found - wanted).abs().max() <= close)


def block(model: nn.Module) -> int:
    """Put the weights of linear layers on the CPU into blocks, one after the other; returns how many.

    Left as they are: small ones, shared ones (a table of embeddings is read row by row), ones with hooks
    (accelerate's bring weights from elsewhere), and layers of a class of their own.
    """
    uses = Counter(
        id(tensor) for module in model.modules() for tensor in module.parameters(recurse=False)
    )
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and uses[id(child.weight)] == 1
        and _is_plain(child)
        and child.weight.numel() >= _SMALLEST
    ]
    fitting = {dtype for dtype in _DTYPES if works(dtype)}
    fitting_places = [place for place in places if place[2].weight.dtype in fitting]
    for parent, name, child in fitting_places:
        setattr(parent, name, BlockedLinear(child))
    if fitting_places:
        _leave_files(model)
    return len(fitting_places)


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


def unblock(model: nn.Module) -> None:
    """Put every weight back as it lay; their numbers are the same to the bit."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BlockedLinear):
                setattr(parent, name, _ordinary(child))


@contextmanager
def in_ordinary_order(model: nn.Module) -> Iterator[None]:
    """Within, weights lie as PyTorch has them, for whoever takes them from the modules themselves."""
    unblock(model)
    try:
        yield
    finally:
        block(model)


def _is_plain(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
        and not weight.requires_grad
        and "forward" not in vars(layer)
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )


def _ordinary(layer: BlockedLinear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.train(layer.training)
    plain.weight = nn.Parameter(layer.weight.detach().to_dense(), requires_grad=False)
    plain.bias = layer.bias
    return plain
