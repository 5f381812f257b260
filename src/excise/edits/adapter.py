"""The edit as an exact LoRA adapter, of rank 1 for each direction: A = vᵀW, B = −α u."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.anatomy.tensors import require_matrices
from excise.anatomy.writers import Writer, WriterTensor
from excise.edits.matrices import MatrixOperators, parts
from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.models.weights import dense
from excise.undocumented import (
    PrefixChange,
    WeightRenaming,
    apply_renamings,
    get_model_conversion_mapping,
)

_MAMBA_TYPES = frozenset(("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"))
"""peft 0.21 refuses adapters on these types' `out_proj`, because fused kernels may read the weight past
the module."""
_INSTEAD = "save the whole model instead: apply (--save DIR)"

Weights = Callable[[WriterTensor], Iterator[Tensor]]
"""Gives the matrices [d, k] or biases [d] of a parameter, in order, float32."""


@dataclass(frozen=True)
class ParameterChange:
    """The change of one parameter by an adapter.

    pairs: B [d, r] and A [r, k] for each of its matrices W [d, k], which become W + B A. bias: the new vector
    of a bias, which has no pairs.
    """

    tensor: WriterTensor
    pairs: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None = None


def loaded_weights(model: nn.Module) -> Weights:
    """The weights of a model in memory, unpacked."""

    def read(tensor: WriterTensor) -> Iterator[Tensor]:
        owner, _, name = tensor.name.rpartition(".")
        values = dense(model.get_submodule(owner), name)
        return parts(values, tensor.axis, bias=tensor.bias)

    return read


def edit_changes(
    edit: EditValues, writers: Sequence[Writer], weights: Weights
) -> Iterator[ParameterChange]:
    """The change of each parameter of the writers that `edit` changes."""
    for writer in changed_writers(edit, writers):
        operators = MatrixOperators(edit, writer.name)
        for tensor in writer.tensors:
            if tensor.bias:
                (bias,) = weights(tensor)
                yield ParameterChange(tensor, (), operators.edited(bias))
                continue
            pairs = tuple(operators.factors(matrix) for matrix in weights(tensor))
            yield ParameterChange(tensor, pairs)


def adapter_tensors(model: nn.Module, changes: Sequence[ParameterChange]) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, float32.

    A: [r, k], B: [d, r] for each linear layer, r the same for all; biases whole, as peft stores them.
    Experts in one parameter, of rank 1 only: A [expert, k], B [d, expert], peft's form for such a
    parameter at rank 1. model: its weights are not read.
    """
    rank = rank_of(changes)
    tensors: dict[str, Tensor] = {}
    for change in changes:
        owner, _, name = change.tensor.name.rpartition(".")
        prefix = f"base_model.model.{owner}"
        if change.bias is not None:
            tensors[f"{prefix}.base_layer.{name}"] = change.bias
            continue
        ups, downs = zip(*change.pairs, strict=True)
        down, up = torch.cat(downs), torch.cat(ups, dim=1)
        transposed = getattr(model.get_submodule(owner), "is_transposed", False)
        if len(change.tensor.shape) < 3:
            lacking = rank - len(down)
            down, up = pad(down, (0, 0, 0, lacking)), pad(up, (0, lacking))
        elif change.tensor.axis == 2 and not transposed:
            # peft reads experts [expert, k, d] as [expert, d, k] if their module lacks `is_transposed`, so
            # both factors are transposed.
            down, up = up.T, down.T
        tensors[f"{prefix}.lora_A.weight"] = down.contiguous()
        tensors[f"{prefix}.lora_B.weight"] = up.contiguous()
    return tensors


def rank_of(changes: Sequence[ParameterChange]) -> int:
    """The highest rank among the changes."""
    return max((up.shape[1] for change in changes for up, _ in change.pairs), default=1)


def changed_writers(edit: EditValues, writers: Sequence[Writer]) -> list[Writer]:
    """The writers that the edit changes, in the order of the model."""
    changed = set(edit.changed)
    return [writer for writer in writers if writer.name in changed]


def require_adapter(model: PreTrainedModel, writers: Sequence[Writer], directions: int) -> None:
    """Raise SaveError if an adapter cannot hold every writer's edit; reads no weight."""
    for writer in writers:
        require_matrices(writer)
        require_form(model, writer.tensors, directions)


def require_form(model: PreTrainedModel, tensors: Sequence[WriterTensor], rank: int) -> None:
    """Raise SaveError unless a peft adapter of this rank can hold changes of the parameters."""
    # peft renames the modules of an adapter as transformers renames tensors of a checkpoint.
    renamings = [
        one
        for one in get_model_conversion_mapping(model, add_legacy=False)
        if isinstance(one, WeightRenaming) and not isinstance(one, PrefixChange)
    ]
    for tensor in tensors:
        owner = tensor.name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if owner.endswith(".out_proj") and model.config.model_type in _MAMBA_TYPES:
            raise SaveError(
                f"{owner}: peft has no adapter for this projection of {model.config.model_type}; "
                f"{_INSTEAD}"
            )
        if apply_renamings(tensor.name, renamings) != tensor.name:
            raise SaveError(
                f"{owner}: peft reads this name as a name of an old checkpoint and would not find the "
                f"module; {_INSTEAD}"
            )
        if isinstance(module, nn.Linear | Conv1D):
            continue
        if tensor.bias:
            raise SaveError(f"{tensor.name}: an adapter cannot hold biases of experts; {_INSTEAD}")
        if len(tensor.shape) != 3:
            raise SaveError(
                f"{tensor.name} is a parameter of {type(module).__name__}; an adapter can hold linear "
                f"layers and experts only; {_INSTEAD}"
            )
        if rank > 1:
            raise SaveError(
                f"{tensor.name}: for experts, an adapter can hold one direction, not {rank}; {_INSTEAD}"
            )
