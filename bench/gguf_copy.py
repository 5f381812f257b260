"""A Llama as a GGUF file in F16: what llama.cpp's own converter would make of its checkpoint."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

_OF_THE_READER = "GGUF."


def write_f16(model: PreTrainedModel, template: Path, path: Path) -> None:
    """Write `model` to `path`: matrices in F16, vectors in F32.

    template: a GGUF file of a model of the same shape and tokenizer, whose metadata and order of tensors
    are taken. Raises ValueError if it has a tensor that the model lacks.
    """
    reader = gguf.GGUFReader(template)
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, field in reader.fields.items():
        if not key.startswith(_OF_THE_READER) and key != "general.architecture":
            value = (
                gguf.LlamaFileType.MOSTLY_F16 if key == "general.file_type" else field.contents()
            )
            writer.add_key_value(key, value, field.types[0], *field.types[1:2])
    tensors = _named(model)
    for one in reader.tensors:
        if one.name not in tensors:
            raise ValueError(f"{template}: the model has no tensor for {one.name}")
        tensor = tensors[one.name].to(torch.float32)
        writer.add_tensor(one.name, tensor.numpy().astype(_numpy_type(tensor)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _numpy_type(tensor: Tensor) -> type[np.floating]:
    return np.float16 if tensor.dim() > 1 else np.float32


def _named(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under the names and in the order of rows that llama.cpp has."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        own = names.get_name(name, try_suffixes=(".weight",))
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for part, count in heads.items():
            if own.endswith(f".{part}.weight"):
                # The two halves of each head that are rotated together lie interleaved there.
                tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
        found[own] = tensor.contiguous()
    return found
