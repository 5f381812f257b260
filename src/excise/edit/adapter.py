"""The edit as a LoRA adapter, of rank 1 for each direction: A = vᵀW, B = −α u. Exact, not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, apply_renamings
from transformers.pytorch_utils import Conv1D

from excise.edit.edit import Edit
from excise.edit.layout import require_matrices
from excise.edit.matrices import MatrixOperators, parts
from excise.errors import SaveError
from excise.files import new_folder
from excise.model.weights import dense
from excise.model.writers import Writer

_NAMES_OF_EXPERTS = frozenset(("down_proj", "w2"))
_MAMBA_TYPES = frozenset(("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"))
"""peft 0.21 refuses adapters on these types' `out_proj`, because fused kernels may read the weight past
the module."""


def adapter_tensors(
    edit: Edit, model: PreTrainedModel, writers: Sequence[Writer]
) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, float32.

    A: [direction, k], B: [d, direction] for each linear writer of non-zero strength; writers' biases
    whole, as peft stores them. Experts in one parameter, of one direction only: A [expert, k], B
    [d, expert], peft's form for such a parameter at rank 1. model: the unedited one, whose W are read.
    Raises SaveError for what peft has no form for.
    """
    tensors: dict[str, Tensor] = {}
    renamings = _renamings(model)
    for writer in _changed(edit, writers):
        _require_form(model, writer, renamings, edit.directions)
        tensors |= _of_writer(MatrixOperators(edit, writer.name), model, writer)
    return tensors


def _changed(edit: Edit, writers: Sequence[Writer]) -> list[Writer]:
    changed = set(edit.changed)
    return [writer for writer in writers if writer.name in changed]


def require_adapter(model: PreTrainedModel, writers: Sequence[Writer], directions: int) -> None:
    """Raise SaveError if an adapter cannot hold every writer's edit; reads no weight."""
    renamings = _renamings(model)
    for writer in writers:
        _require_form(model, writer, renamings, directions)


def _of_writer(operators: MatrixOperators, model: nn.Module, writer: Writer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for tensor in writer.tensors:
        owner, _, name = tensor.name.rpartition(".")
        module = model.get_submodule(owner)
        values = dense(module, name)
        prefix = f"base_model.model.{owner}"
        if tensor.bias:
            tensors[f"{prefix}.base_layer.{name}"] = operators.edited(values)
            continue
        pairs = [operators.factors(matrix) for matrix in parts(values, tensor.axis, bias=False)]
        down, up = torch.cat([a for _, a in pairs]), torch.cat([b for b, _ in pairs], dim=1)
        # peft takes experts [expert, k, d] for [expert, d, k] where their module does not say so: the
        # change of each, −α u (vᵀ W), is then asked of it the other way round.
        transposed = getattr(module, "is_transposed", False)
        if values.dim() == 3 and tensor.axis == 2 and not transposed:
            down, up = up.T, down.T
        tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = down, up
    return tensors


def _require_form(
    model: PreTrainedModel, writer: Writer, renamings: list[WeightRenaming], directions: int
) -> None:
    """Raise SaveError unless a peft adapter can hold the writer's edit."""
    require_matrices(writer)
    for tensor in writer.tensors:
        owner = tensor.name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if owner.endswith(".out_proj") and model.config.model_type in _MAMBA_TYPES:
            raise SaveError(
                f"{owner}: peft holds no adapter for this projection of {model.config.model_type}; save "
                "the whole model instead (--save DIR)"
            )
        if apply_renamings(tensor.name, renamings) != tensor.name:
            raise SaveError(
                f"{owner}: peft would take this name for that of an old checkpoint and look for the adapter "
                "elsewhere; save the whole model instead (--save DIR)"
            )
        if isinstance(module, nn.Linear | Conv1D):
            continue
        if tensor.bias:
            raise SaveError(
                f"{tensor.name}: an adapter cannot hold biases of experts; save the whole model "
                "instead (--save DIR)"
            )
        if len(tensor.shape) != 3:
            raise SaveError(
                f"{tensor.name} is a parameter of {type(module).__name__}; an adapter can hold linear "
                "layers and experts only; save the whole model instead (--save DIR)"
            )
        if directions > 1:
            raise SaveError(
                f"{tensor.name}: an adapter can hold one direction of experts, not {directions}; save the "
                "whole model instead (--save DIR)"
            )


def _renamings(model: PreTrainedModel) -> list[WeightRenaming]:
    """How peft renames what it loads for this model: as transformers does with its checkpoints."""
    return [
        one
        for one in get_model_conversion_mapping(model, add_legacy=False)
        if isinstance(one, WeightRenaming) and not isinstance(one, PrefixChange)
    ]


def save_adapter(
    edit: Edit,
    model: PreTrainedModel,
    writers: Sequence[Writer],
    base: str,
    destination: Path,
    card: str,
) -> None:
    """Write a peft folder that `PeftModel.from_pretrained` loads. Raises SaveError.

    writers: the model's. base: name or path of the original model, for the
    adapter's configuration.
    """
    from peft import LoraConfig

    tensors = {
        name: tensor.contiguous() for name, tensor in adapter_tensors(edit, model, writers).items()
    }
    changed = [
        tensor.name
        for writer in _changed(edit, writers)
        for tensor in writer.tensors
        if not tensor.bias
    ]
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in changed}
    modules = {name for name in changed if isinstance(owners[name], nn.Linear | Conv1D)}
    if len(modules) < len(changed):
        # In models with experts, peft takes modules of these names for single experts of old checkpoints,
        # and turns them into the experts' parameter. As parameters they stay what they are.
        modules = {name for name in modules if name.split(".")[-2] not in _NAMES_OF_EXPERTS}
    config = LoraConfig(
        r=edit.directions,
        lora_alpha=edit.directions,
        target_modules=[name.rpartition(".")[0] for name in changed if name in modules],
        target_parameters=[name for name in changed if name not in modules] or None,
        fan_in_fan_out=any(isinstance(owners[name], Conv1D) for name in modules),
        bias="lora_only" if any(name.endswith(".bias") for name in tensors) else "none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    with new_folder(destination) as folder:
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(card, encoding="utf-8")
