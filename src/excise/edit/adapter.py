"""The edit as a LoRA adapter of rank 1: A = vᵀW, B = −α u. Exact, not fitted."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from excise.edit.edit import Edit
from excise.errors import SaveError
from excise.files import new_folder


def adapter_tensors(edit: Edit, model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, float32.

    A: [1, k], B: [d, 1] for each writer of non-zero strength; writers' biases whole, as peft stores
    them. model: the unedited model, whose weights W are read.
    """
    tensors: dict[str, Tensor] = {}
    for index, writer in enumerate(edit.writers):
        strength = edit.strengths[index]
        if strength == 0:
            continue
        module = model.get_submodule(writer)
        if not isinstance(module, nn.Linear):
            raise SaveError(
                f"{writer} is a {type(module).__name__}; an adapter can hold linear layers only"
            )
        u, v = edit.u[index], edit.v[index]
        weight = module.weight.detach().to("cpu", torch.float32)
        prefix = f"base_model.model.{writer}"
        tensors[f"{prefix}.lora_A.weight"] = (v @ weight).unsqueeze(0)
        tensors[f"{prefix}.lora_B.weight"] = (-strength * u).unsqueeze(1)
        if module.bias is not None:
            bias = module.bias.detach().to("cpu", torch.float32)
            tensors[f"{prefix}.base_layer.bias"] = bias - strength * u * (v @ bias)
    return tensors


def save_adapter(edit: Edit, model: nn.Module, base: str, destination: Path, card: str) -> None:
    """Write a peft folder that `PeftModel.from_pretrained` loads. Raises SaveError.

    base: name or path of the original model, for the adapter's configuration.
    """
    from peft import LoraConfig

    tensors = {name: tensor.contiguous() for name, tensor in adapter_tensors(edit, model).items()}
    has_bias = any(name.endswith(".bias") for name in tensors)
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=[
            writer
            for writer, strength in zip(edit.writers, edit.strengths, strict=True)
            if strength != 0
        ],
        bias="lora_only" if has_bias else "none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    with new_folder(destination) as folder:
        config.save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(card, encoding="utf-8")
