"""The edit as a LoRA adapter of rank 1: A = vᵀW, B = −α u. Exact, not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.edit.edit import Edit
from excise.edit.matrices import MatrixOperators, parts
from excise.errors import SaveError
from excise.files import new_folder
from excise.model.weights import dense
from excise.model.writers import Writer

_MAMBA_TYPES = frozenset(("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"))
"""peft 0.21 refuses adapters on these types' `out_proj`, because fused kernels may read the weight past
the module."""


def adapter_tensors(
    edit: Edit, model: PreTrainedModel, writers: Sequence[Writer]
) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, float32.

    A: [1, k], B: [d, 1] for each linear writer of non-zero strength; writers' biases whole, as peft
    stores them. Experts in one parameter: A [expert, k], B [d, expert], peft's form for such a parameter
    at rank 1. model: the unedited model, whose weights W are read.
    Raises SaveError for what peft has no form for.
    """
    tensors: dict[str, Tensor] = {}
    for index, writer in enumerate(writers):
        if edit.strengths[index] != 0:
            _require_form(model, writer)
            tensors |= _of_writer(MatrixOperators(edit, index), model, writer)
    return tensors


def _of_writer(operators: MatrixOperators, model: nn.Module, writer: Writer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for tensor in writer.tensors:
        owner, _, name = tensor.name.rpartition(".")
        values = dense(model.get_submodule(owner), name)
        prefix = f"base_model.model.{owner}"
        if tensor.bias:
            tensors[f"{prefix}.base_layer.{name}"] = operators.edited(values)
            continue
        rows: list[Tensor] = []
        columns: list[Tensor] = []
        for matrix in parts(values, tensor.axis, bias=False):
            operator = operators.next_for(matrix)
            rows.append(operator.v @ matrix)
            columns.append(-operators.strength * operator.u)
        tensors[f"{prefix}.lora_A.weight"] = torch.stack(rows)
        tensors[f"{prefix}.lora_B.weight"] = torch.stack(columns, dim=1)
    return tensors


def _require_form(model: PreTrainedModel, writer: Writer) -> None:
    """Raise SaveError unless a peft adapter can hold the writer's edit."""
    for tensor in writer.tensors:
        owner = tensor.name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if owner.endswith(".out_proj") and model.config.model_type in _MAMBA_TYPES:
            raise SaveError(
                f"{owner}: peft holds no adapter for this projection of {model.config.model_type}; save "
                "the whole model instead (--save DIR)"
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
    if not writer.tensors:
        raise SaveError(f"{writer.name}: its weights are stored in a form that excise cannot read")


def save_adapter(
    edit: Edit,
    model: PreTrainedModel,
    writers: Sequence[Writer],
    base: str,
    destination: Path,
    card: str,
) -> None:
    """Write a peft folder that `PeftModel.from_pretrained` loads. Raises SaveError.

    writers: the model's, in the edit's order. base: name or path of the original model, for the
    adapter's configuration.
    """
    from peft import LoraConfig

    tensors = {
        name: tensor.contiguous() for name, tensor in adapter_tensors(edit, model, writers).items()
    }
    changed = [
        tensor.name
        for writer, strength in zip(writers, edit.strengths, strict=True)
        if strength != 0
        for tensor in writer.tensors
        if not tensor.bias
    ]
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in changed}
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=[
            name.rpartition(".")[0]
            for name, owner in owners.items()
            if isinstance(owner, nn.Linear | Conv1D)
        ],
        target_parameters=[
            name for name, owner in owners.items() if not isinstance(owner, nn.Linear | Conv1D)
        ]
        or None,
        fan_in_fan_out=any(isinstance(owner, Conv1D) for owner in owners.values()),
        bias="lora_only" if any(name.endswith(".bias") for name in tensors) else "none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    with new_folder(destination) as folder:
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(card, encoding="utf-8")
