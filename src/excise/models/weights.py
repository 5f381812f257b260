"""Weights of a loaded model, dequantised one matrix at a time: their size, norms of rows, gains of norms.

A search never reads weights; the row-normalised kind and adapters do. A matrix may be quantised
(bitsandbytes, torchao, FP8, MXFP4, GPTQ, …) or offloaded by accelerate, which leaves a meta tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import chain

import torch
from accelerate.hooks import ModelHook
from torch import Tensor, nn

from excise.anatomy.writers import Writer
from excise.devices.out_of_memory import is_out_of_memory
from excise.devices.prepacked import is_prepacked
from excise.errors import ModelError
from excise.undocumented import hook_of, import_undocumented, is_traceable_wrapper_subclass

_ORDINARY = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
_FLOAT8 = frozenset((torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz))
_INT8_LARGEST = 127.0
_MXFP4 = "transformers.integrations.mxfp4"
_MXFP4_EXPERTS = "Mxfp4GptOssExperts"
_IDENTITY_ROWS = 512
"""Rows of the identity matrix that pass through a layer at a time."""


def dense(module: nn.Module, name: str) -> Tensor:
    """One weight of one module, such as "weight", "bias" or "down_proj", as a float32 tensor on the CPU.

    The shape is that of the dequantised weight. Do not write to it: a float32 weight on the CPU is returned
    itself. Raises ModelError if the weight cannot be dequantised.
    """
    with _in_memory(module), torch.no_grad():
        tensor = _unpacked(module, name)
        return tensor.detach().to("cpu", torch.float32)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are stored, scales and offloaded weights included, tied weights once."""
    return sum(bytes_by_device(model).values())


def bytes_by_device(model: nn.Module) -> dict[str, int]:
    """`stored_bytes` by device: "cuda:0", "cpu", …, or "offloaded" for weights moved in for every pass."""
    counted: set[int] = set()
    places = Counter[str]()
    for module in model.modules():
        for tensor in module.parameters(recurse=False):
            if id(tensor) not in counted:
                counted.add(id(tensor))
                places[_place(tensor)] += _tensor_bytes(tensor)
        # GPTQ and AWQ keep packed weights as buffers; other buffers are small.
        for buffer in module.buffers(recurse=False):
            if not buffer.is_floating_point() and buffer.dim() > 1:
                places[_place(buffer)] += _tensor_bytes(buffer)
        if type(module).__name__ == _MXFP4_EXPERTS:
            for part in _mxfp4_parts(module).values():
                places[_place(part)] += _tensor_bytes(part)
    return dict(places)


def _place(tensor: Tensor) -> str:
    return "offloaded" if tensor.is_meta else str(tensor.device)


@contextmanager
def _in_memory(module: nn.Module) -> Iterator[None]:
    """Within the context, an offloaded module's weights are loaded, as during a forward pass."""
    hook = hook_of(module)
    offloaded = any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers()))
    if not offloaded or not isinstance(hook, ModelHook):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _unpacked(module: nn.Module, name: str) -> Tensor:
    """The dequantised weight, on any device and in any floating-point type."""
    tensor = getattr(module, name, None)
    if type(module).__name__ == _MXFP4_EXPERTS and not isinstance(tensor, Tensor):
        return _mxfp4(module, name)
    if isinstance(tensor, Tensor):
        if tensor.is_meta:
            raise _not_readable(module, name, "is on the meta device, without its numbers")
        if is_prepacked(tensor):
            in_order: Tensor = tensor.to_dense()
            return in_order
        if type(tensor) in (Tensor, nn.Parameter) and tensor.dtype in _ORDINARY:
            return tensor
        # bitsandbytes is an optional package, so its classes are recognised by name.
        kind = type(tensor).__name__
        if kind == "Params4bit":
            return _bitsandbytes_4bit(module, tensor)
        if kind == "Int8Params":
            return _bitsandbytes_8bit(module, tensor)
        scale = getattr(module, f"{name}_scale_inv", None)
        if tensor.dtype in _FLOAT8 and isinstance(scale, Tensor):
            return _blockwise(tensor, scale, getattr(module, "block_size", None))
        # Some layouts of torchao have no `dequantize` of their own.
        if is_traceable_wrapper_subclass(tensor) and (
            type(tensor).dequantize is not Tensor.dequantize
        ):
            unpacked: Tensor = tensor.dequantize()
            return unpacked
    if name == "weight":
        return _through_identity(module, tensor)
    raise _not_readable(module, name, f"is stored as {_description(tensor)}")


def _bitsandbytes_4bit(module: nn.Module, weight: Tensor) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    # After a move between devices, only the layer may hold the state.
    state = getattr(weight, "quant_state", None) or getattr(module, "quant_state", None)
    if state is None:
        raise _not_readable(module, "weight", "is a 4-bit weight without its scales")
    if getattr(state, "packing_format_for_cpu", False):
        # The first forward pass on a CPU with AVX512-BF16 changes the weight to a kernel's own layout.
        return _through_identity(module, weight)
    unpacked: Tensor = dequantize_4bit(weight.data, state)
    return unpacked


def _bitsandbytes_8bit(module: nn.Module, weight: Tensor) -> Tensor:
    # The first forward pass moves the scales from the weight to the layer's state.
    scales = getattr(weight, "SCB", None)
    if scales is None:
        scales = getattr(getattr(module, "state", None), "SCB", None)
    if scales is None:
        raise _not_readable(module, "weight", "is an 8-bit weight without its scales")
    factors: Tensor = scales.to(torch.float32) / _INT8_LARGEST
    return weight.data.to(torch.float32) * factors.unsqueeze(-1)


def _blockwise(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    """FP8 numbers times the scale of their block, or of the whole matrix without blocks."""
    scale = scale.to(torch.float32)
    if block is not None:
        rows, columns = weight.shape[-2:]
        scale = scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
        scale = scale[..., :rows, :columns]
    return weight.to(torch.float32) * scale


def _mxfp4_parts(module: nn.Module) -> dict[str, Tensor]:
    """Blocks and scales of experts in a kernel's own layout, by their names in checkpoints."""
    parts: dict[str, Tensor] = {}
    for name in ("gate_up_proj", "down_proj"):
        if not isinstance(getattr(module, name), Tensor):
            reverse = import_undocumented(_MXFP4, "Mxfp4ReverseDeserialize")(None)
            parts |= reverse.convert({}, model=module, full_layer_name=f"{name}_blocks")
    return parts


def _mxfp4(module: nn.Module, name: str) -> Tensor:
    parts = _mxfp4_parts(module)
    if f"{name}_blocks" not in parts:
        raise _not_readable(module, name, "is not among the MXFP4 weights")
    unpacked: Tensor = import_undocumented(_MXFP4, "convert_moe_packed_tensors")(
        parts[f"{name}_blocks"], parts[f"{name}_scales"], dtype=torch.float32
    )
    return unpacked


def _through_identity(module: nn.Module, tensor: object) -> Tensor:
    """The weight of a linear layer in an unknown format: the layer's output for the identity matrix.

    It takes a forward pass of `in_features` tokens and is rounded to the layer's data type. The class's own
    `forward` is called, so that hooks, and so edits, do not run.
    """
    inputs = getattr(module, "in_features", None)
    if not isinstance(inputs, int):
        raise _not_readable(module, "weight", f"is stored as {_description(tensor)}")
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    device = own[0].device if own else torch.device("cpu")
    dtype = next((one.dtype for one in own if one.dtype in _ORDINARY), torch.bfloat16)
    layer = _without_bias(module)
    rows: list[Tensor] = []

    def run(tokens: Tensor) -> Tensor:
        output: Tensor = type(module).forward(layer, tokens)
        return output.to(torch.float32)

    try:
        offset = run(torch.zeros(1, inputs, dtype=dtype, device=device))
        for start in range(0, inputs, _IDENTITY_ROWS):
            count = min(_IDENTITY_ROWS, inputs - start)
            identity = torch.zeros(count, inputs, dtype=dtype, device=device)
            identity[torch.arange(count), start + torch.arange(count)] = 1
            rows.append(run(identity) - offset)
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        how = f"is stored as {_description(tensor)} and its layer does not run ({error})"
        raise _not_readable(module, "weight", how) from error
    return torch.cat(rows).T


def _without_bias(module: nn.Module) -> nn.Module:
    """A copy of the layer that shares its weights and has a bias of zero, so that no digits are lost."""
    layer = copy(module)
    for held in ("_parameters", "_buffers"):
        tensors = dict(getattr(module, held))
        bias = tensors.get("bias")
        if bias is not None:
            zeros = torch.zeros_like(bias)
            parameter = isinstance(bias, nn.Parameter)
            tensors["bias"] = nn.Parameter(zeros, requires_grad=False) if parameter else zeros
        vars(layer)[held] = tensors
    return layer


def _tensor_bytes(tensor: Tensor) -> int:
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return sum(_tensor_bytes(getattr(tensor, name)) for name in names)
    own = tensor.numel() * tensor.element_size()
    if type(tensor).__name__ == "Int8Params":
        return own + 4 * tensor.shape[0]
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        scales = [state.absmax, *([state.state2.absmax] if state.nested else ())]
        own += sum(scale.numel() * scale.element_size() for scale in scales)
    return own


def _description(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return "something other than a tensor"
    return f"{type(tensor).__name__} of {str(tensor.dtype).removeprefix('torch.')}"


def _not_readable(module: nn.Module, name: str, how: str) -> ModelError:
    return ModelError(
        f"{name} of a {type(module).__name__} {how}: it cannot be read, but adapters and the "
        "row-normalised kind need it; other kinds (--kind orthogonal,discriminant) do not"
    )


def post_norm_gains(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """γ of the post-norms of each writer, ones for a writer without post-norm: [writer, d], float32.

    Measured by passing ones through the norms. An RMSNorm maps them to γ / √(1 + ε), however it stores γ
    (Gemma stores γ − 1); a second norm multiplies by its own γ. A common factor does not change a direction.
    """
    gains = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        values = torch.ones(1, dimension)
        with torch.inference_mode():
            for name in writer.post_norms:
                norm = model.get_submodule(name)
                parameter = next(norm.parameters(), values)
                # The hook of an offloaded norm moves the input to the norm's device.
                device = values.device if parameter.is_meta else parameter.device
                values = norm(values.to(device, parameter.dtype))
        gains[index] = values[0].to("cpu", torch.float32)
    return gains


def row_norms(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """Euclidean norms of the rows of each writer's matrix: [writer, d], float32.

    Ones for a writer of several matrices: the row-normalised operator on their common output is then the
    orthogonal operator.
    """
    norms = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        matrices = [tensor for tensor in writer.tensors if not tensor.bias]
        if writer.matrices == 1 and len(matrices) == 1:
            owner, _, name = matrices[0].name.rpartition(".")
            weight = dense(model.get_submodule(owner), name)
            norms[index] = weight.norm(dim=1 - matrices[0].axis)
    return norms
