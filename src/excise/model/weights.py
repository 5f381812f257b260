"""Weights as dense numbers and as bytes, however they are stored."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from excise.errors import ModelError

_AT_A_TIME = 1024
"""Columns of a quantised matrix that are read at a time."""


def dense(module: nn.Module, name: str) -> Tensor:
    """The parameter `name` of a module as a dense float32 tensor on the host.

    Plain parameters are copied, those that accelerate offloaded to host or disk are fetched. The matrix
    of a linear layer in any other form (bitsandbytes, torchao, FP8, packed for a processor) is what the
    layer makes of the identity: its effect, to the rounding of its own arithmetic.
    Raises ModelError for a parameter that is neither.
    """
    # Offloaded weights come back for as long as this lasts.
    with torch.inference_mode(), align_module_device(module):
        parameter = module.get_parameter(name)
        if _is_plain(parameter):
            return parameter.detach().to("cpu", torch.float32, copy=True)
    if isinstance(module, nn.Linear) and name == "weight":
        return _effect(module)
    raise ModelError(
        f"{type(module).__name__}.{name} is stored as {parameter.dtype}, from which excise cannot read a "
        "matrix; use the orthogonal or the discriminant kind, and save the model instead of an adapter"
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor.data) in (Tensor, nn.Parameter)
        and tensor.is_floating_point()
        and tensor.element_size() >= 2
        and tensor.device.type != "meta"
    )


@torch.inference_mode()
def _effect(module: nn.Linear) -> Tensor:
    """W [d, k] of a linear layer, from what it puts out for the unit vectors."""
    bias = None if module.bias is None else module.bias.detach()
    hook = getattr(module, "_hf_hook", None)
    device = module.weight.device if hook is None else torch.device(hook.execution_device)
    dtype = torch.get_default_dtype() if bias is None else bias.dtype
    columns = torch.empty(module.in_features, module.out_features)
    for start in range(0, module.in_features, _AT_A_TIME):
        count = min(_AT_A_TIME, module.in_features - start)
        inputs = torch.zeros(count, module.in_features, device=device, dtype=dtype)
        inputs[:, start : start + count].fill_diagonal_(1)
        # The forward method itself: hooks, an edit's among them, are not to take part.
        outputs = module.forward(inputs)
        if bias is not None:
            outputs = outputs - bias.to(outputs)
        columns[start : start + count] = outputs.to("cpu", torch.float32)
    return columns.T.contiguous()


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """What tensors take where they are stored, quantised ones as quantised."""
    total = 0
    for tensor in tensors:
        if type(tensor.data) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
            total += tensor.numel() * tensor.element_size()
        else:
            # A tensor subclass says which plain tensors it is made of.
            names, _ = tensor.__tensor_flatten__()
            total += stored_bytes(getattr(tensor, name) for name in names)
    return total
