"""The edit as a LoRA adapter, of rank 1 for each direction: A = vᵀW, B = −α u. Exact, not fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.anatomy.tensors import require_matrices
from excise.anatomy.writers import Writer, WriterTensor
from excise.checkpoint.source import ModelSource
from excise.edits.edit import Edit
from excise.edits.matrices import MatrixOperators, parts
from excise.edits.served import serving_note
from excise.errors import SaveError
from excise.models.weights import dense
from excise.system.files import FurtherFiles, new_folder
from excise.undocumented import (
    PrefixChange,
    WeightRenaming,
    apply_renamings,
    get_model_conversion_mapping,
)

_NAMES_OF_EXPERTS = frozenset(("down_proj", "w2"))
_MAMBA_TYPES = frozenset(("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"))
"""peft 0.21 refuses adapters on these types' `out_proj`, because fused kernels may read the weight past
the module."""
_INSTEAD = "save the whole model instead (--save DIR)"

Weights = Callable[[WriterTensor], Iterator[Tensor]]
"""Gives the matrices [d, k] or biases [d] of a parameter, in order, float32."""


@dataclass(frozen=True)
class ParameterChange:
    """What an adapter does to one parameter.

    pairs: B [d, r] and A [r, k] for each of its matrices W [d, k], which become W + B A. bias: the whole new
    vector, for a bias, which has no pairs.
    """

    tensor: WriterTensor
    pairs: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor | None = None


def loaded_weights(model: nn.Module) -> Weights:
    """The weights of a model in memory, whatever packs them."""

    def read(tensor: WriterTensor) -> Iterator[Tensor]:
        owner, _, name = tensor.name.rpartition(".")
        values = dense(model.get_submodule(owner), name)
        return parts(values, tensor.axis, bias=tensor.bias)

    return read


def edit_changes(
    edit: Edit, writers: Sequence[Writer], weights: Weights
) -> Iterator[ParameterChange]:
    """What `edit` does to each parameter of the writers that it changes."""
    for writer in _changed(edit, writers):
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
            down, up = _padded(down, rank, 0), _padded(up, rank, 1)
        elif change.tensor.axis == 2 and not transposed:
            # peft takes experts [expert, k, d] for [expert, d, k] where their module does not say so: the
            # change of each, −α u (vᵀ W), is then asked of it the other way round.
            down, up = up.T, down.T
        tensors[f"{prefix}.lora_A.weight"] = down.contiguous()
        tensors[f"{prefix}.lora_B.weight"] = up.contiguous()
    return tensors


def rank_of(changes: Sequence[ParameterChange]) -> int:
    """The highest rank among the changes."""
    return max((up.shape[1] for change in changes for up, _ in change.pairs), default=1)


def _padded(factor: Tensor, rank: int, axis: int) -> Tensor:
    """Zeros up to the adapter's one rank."""
    lacking = list(factor.shape)
    lacking[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(lacking)], axis)


def _changed(edit: Edit, writers: Sequence[Writer]) -> list[Writer]:
    changed = set(edit.changed)
    return [writer for writer in writers if writer.name in changed]


def require_adapter(model: PreTrainedModel, writers: Sequence[Writer], directions: int) -> None:
    """Raise SaveError if an adapter cannot hold every writer's edit; reads no weight."""
    for writer in writers:
        require_matrices(writer)
        require_form(model, writer.tensors, directions)


def require_form(model: PreTrainedModel, tensors: Sequence[WriterTensor], rank: int) -> None:
    """Raise SaveError unless a peft adapter of this rank can hold changes of the parameters."""
    renamings = _renamings(model)
    for tensor in tensors:
        owner = tensor.name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if owner.endswith(".out_proj") and model.config.model_type in _MAMBA_TYPES:
            raise SaveError(
                f"{owner}: peft holds no adapter for this projection of {model.config.model_type}; "
                f"{_INSTEAD}"
            )
        if apply_renamings(tensor.name, renamings) != tensor.name:
            raise SaveError(
                f"{owner}: peft would take this name for that of an old checkpoint and look for the adapter "
                f"elsewhere; {_INSTEAD}"
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
                f"{tensor.name}: an adapter can hold one direction of experts, not {rank}; {_INSTEAD}"
            )


def _renamings(model: PreTrainedModel) -> list[WeightRenaming]:
    """How peft renames what it loads for this model: as transformers does with its checkpoints."""
    return [
        one
        for one in get_model_conversion_mapping(model, add_legacy=False)
        if isinstance(one, WeightRenaming) and not isinstance(one, PrefixChange)
    ]


def adapter_base(source: ModelSource) -> tuple[str, str | None]:
    """Name and revision of an adapter's base, such that it is found from any working directory.

    They are the hub's where they are known. Else it is an absolute path: those who load the adapter take a
    relative one from where they are.
    """
    origin = source.origin
    return (source.reference, None) if origin is None else (origin.name, origin.revision)


def save_adapter(
    edit: Edit,
    model: PreTrainedModel,
    writers: Sequence[Writer],
    base: str,
    destination: Path,
    card: str,
    weights: Weights | None = None,
    further: FurtherFiles | None = None,
    *,
    revision: str | None = None,
) -> None:
    """Write a peft folder that `PeftModel.from_pretrained` loads. Raises SaveError.

    model: unedited; its W are read unless `weights` gives them, and then it may be without any. writers: the
    model's. base, revision: of the original model, for the adapter's configuration; see `adapter_base`.
    further: files that the folder gets before it takes its name.
    """
    require_adapter(model, _changed(edit, writers), edit.directions)
    changes = list(edit_changes(edit, writers, weights or loaded_weights(model)))
    write_adapter(model, changes, base, destination, card, further, revision=revision)


def write_adapter(
    model: PreTrainedModel,
    changes: Sequence[ParameterChange],
    base: str,
    destination: Path,
    card: str,
    further: FurtherFiles | None = None,
    *,
    revision: str | None = None,
) -> None:
    """Write the changes as a peft folder. Raises SaveError. model: its weights are not read.

    base, revision: as for `save_adapter`.
    """
    from peft import LoraConfig

    tensors = adapter_tensors(model, changes)
    rank = rank_of(changes)
    changed = [change.tensor.name for change in changes if change.bias is None]
    modules, parameters = split_targets(model, changed)
    owners: Mapping[str, nn.Module] = {name: model.get_submodule(name) for name in modules}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=modules,
        target_parameters=parameters or None,
        fan_in_fan_out=any(isinstance(owner, Conv1D) for owner in owners.values()),
        bias="lora_only" if any(change.bias is not None for change in changes) else "none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    )
    note = serving_note([change.tensor for change in changes], rank)
    with new_folder(destination) as folder:
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(f"{card.rstrip()}\n\n{note}\n", encoding="utf-8")
        for name, text in (further(folder) if further is not None else {}).items():
            (folder / name).write_text(text, encoding="utf-8")


def split_targets(model: nn.Module, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parameters' names as peft's target_modules (of linear layers) and target_parameters (the others)."""
    linear = {
        name
        for name in names
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear | Conv1D)
    }
    if len(linear) < len(names):
        # In models with experts, peft takes modules of these names for single experts of old checkpoints,
        # and turns them into the experts' parameter. As parameters they stay what they are.
        linear = {name for name in linear if name.split(".")[-2] not in _NAMES_OF_EXPERTS}
    return (
        [name.rpartition(".")[0] for name in names if name in linear],
        [name for name in names if name not in linear],
    )
