"""Tiny models in every storage that people have weights in, made without a download."""

from __future__ import annotations

import importlib.util
import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from conftest import SHAPE as TINY_SHAPE
from conftest import TEMPLATE, VOCABULARY, tiny_tokenizer

SHAPE = TINY_SHAPE | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "head_dim": 16,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    ),
    "gpt_oss": lambda: GptOssConfig(
        **{**SHAPE, "intermediate_size": 64}, num_local_experts=4, num_experts_per_tok=2
    ),
}
PACKAGES = {
    "bnb_4bit": "bitsandbytes",
    "bnb_8bit": "bitsandbytes",
    "int8": "torchao",
    "int4": "torchao",
}
IDS = torch.tensor([[7, 5, 6, 20, 31], [9, 9, 40, 3, 8]])
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP8_BLOCK = 32
ORDINARY = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def plain_model(kind: str) -> PreTrainedModel:
    """A random model in float32, biases too."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 or not parameter.any():
                parameter.normal_(mean=0.3, std=0.2)
    model.generation_config.eos_token_id = 1
    return model.eval().requires_grad_(False)


def writer_names(kind: str) -> tuple[str, ...]:
    """The writers of such a model."""
    mlp = "mlp.down_proj" if kind == "llama" else "mlp.experts"
    return tuple(
        f"model.layers.{layer}.{name}"
        for layer in range(SHAPE["num_hidden_layers"])  # type: ignore[arg-type]
        for name in ("self_attn.o_proj", mlp)
    )


def save(kind: str, folder: Path) -> Path:
    """The plain model with a tokenizer, as a checkpoint."""
    plain_model(kind).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def offload_to_cpu(kind: str, _: Path) -> PreTrainedModel:
    """All weights on the meta device; accelerate brings them for each forward from memory."""
    model = plain_model(kind)
    cpu_offload(model, torch.device("cpu"))
    return model


def offload_to_disk(kind: str, folder: Path) -> PreTrainedModel:
    """The same from a folder."""
    model = plain_model(kind)
    disk_offload(model, folder, torch.device("cpu"))
    return model


def spread(kind: str, folder: Path) -> PreTrainedModel:
    """What --max-memory makes: the embedding in memory, all else on disk."""
    save(kind, folder / "plain")
    return AutoModelForCausalLM.from_pretrained(
        folder / "plain",
        device_map="auto",
        max_memory={"cpu": 60_000},
        offload_folder=folder / "offloaded",
    )


def write_fp8(kind: str, folder: Path) -> dict[str, Tensor]:
    """An FP8 checkpoint in blocks, the way DeepSeek's are; returns its writers' weights, unpacked."""
    save(kind, folder)
    tensors = load_file(folder / "model.safetensors")
    unpacked: dict[str, Tensor] = {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name]
        blocks = weight.unflatten(0, (-1, FP8_BLOCK)).unflatten(2, (-1, FP8_BLOCK))
        scale = blocks.abs().amax(dim=(1, 3)) / 448
        packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        unpacked[name.removesuffix(".weight")] = (
            (packed.to(torch.float32) * scale[:, None, :, None]).flatten(2, 3).flatten(0, 1)
        )
        tensors[name] = packed.flatten(2, 3).flatten(0, 1)
        tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    mark(
        folder,
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
            "modules_to_not_convert": ["lm_head"],
        },
    )
    return unpacked


def write_mxfp4(folder: Path) -> dict[str, Tensor]:
    """A gpt-oss checkpoint with MXFP4 experts; returns the experts' down projections, unpacked.

    Unpacked [expert, intermediate, hidden] as transformers has them; stored [expert, hidden,
    intermediate / 32, 16], two numbers a byte, the first one in the low half.
    """
    save("gpt_oss", folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    unpacked: dict[str, Tensor] = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=generator)
        exponents = torch.randint(-5, -1, codes.shape[:-1], generator=generator)
        values = torch.tensor([*FP4_VALUES, *(-value for value in FP4_VALUES)])[codes]
        dense = (values * exponents.exp2().unsqueeze(-1)).flatten(2).transpose(1, 2)
        if name.endswith(".down_proj"):
            unpacked[name.removesuffix(".down_proj")] = dense
        tensors[f"{name}_blocks"] = (codes[..., 0::2] + 16 * codes[..., 1::2]).to(torch.uint8)
        tensors[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    mark(
        folder,
        {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    )
    return unpacked


def write_gguf(
    path: Path,
    packing: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    *,
    moe: bool = False,
    intermediate: int = 128,
    tokenizer: bool = False,
    rotary_base: float | None = None,
    without: str | None = None,
) -> dict[str, Tensor]:
    """A llama without biases, or a Qwen3 with experts, as a GGUF file; returns its weights, unpacked.

    tokenizer: with one that cuts text into letters, so that the file can be run. without: the name of a
    tensor that is left out.
    """
    torch.manual_seed(0)
    shape = SHAPE | {"intermediate_size": intermediate}
    config = CONFIGS["qwen3_moe"]() if moe else LlamaConfig(**shape)
    if moe:
        config.moe_intermediate_size = 768  # transformers takes it for this, whatever the file says
    model = AutoModelForCausalLM.from_config(config)
    writer = gguf.GGUFWriter(str(path), "qwen3moe" if moe else "llama")
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_context_length(256)
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(SHAPE["head_dim"])
    writer.add_vocab_size(VOCABULARY)
    if rotary_base is not None:
        writer.add_rope_freq_base(rotary_base)
    if tokenizer:
        _add_tokenizer(writer)
    if moe:
        writer.add_key_length(SHAPE["head_dim"])
        writer.add_value_length(SHAPE["head_dim"])
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    arch = gguf.MODEL_ARCH.QWEN3MOE if moe else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(arch, SHAPE["num_hidden_layers"])
    unpacked: dict[str, Tensor] = {}

    def add(name: str, tensor: Tensor) -> None:
        packed = gguf.quants.quantize(tensor.contiguous().numpy(), packing)
        writer.add_tensor(name, packed, raw_dtype=packing)

    for name, tensor in model.state_dict().items():
        if name.endswith("gate_up_proj"):
            layer = name.split(".")[2]
            for part, half in zip(("gate", "up"), tensor.chunk(2, 1), strict=True):
                add(f"blk.{layer}.ffn_{part}_exps.weight", half)
            continue
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs.endswith("exps"):
            theirs += ".weight"
        if theirs == without:
            continue
        if tensor.dim() == 1:
            writer.add_tensor(theirs, tensor.numpy())
            continue
        if theirs.endswith((".attn_q.weight", ".attn_k.weight")) and not moe:
            heads = SHAPE["num_attention_heads" if "attn_q" in theirs else "num_key_value_heads"]
            # As llama.cpp stores them: the halves of each head's rotation interleaved.
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        add(theirs, tensor)
        packed = gguf.quants.quantize(tensor.contiguous().numpy(), packing)
        unpacked[name.removesuffix(".weight")] = torch.from_numpy(
            gguf.quants.dequantize(packed, packing)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """One token for each letter, a blank, and what stands around turns; filled up to the vocabulary."""
    special = ["<unk>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]
    tokens = [*special, *string.ascii_lowercase, "\u0120", "'", "th"]
    tokens += [f"<{number}>" for number in range(VOCABULARY - len(tokens))]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if one in special else normal for one in tokens])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)


def mark(folder: Path, quantization: dict[str, object]) -> None:
    """Say in config.json how the checkpoint is packed."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "quantization_config": quantization}), encoding="utf-8")


def marked(plain: Path, folder: Path, quantization: dict[str, object]) -> Path:
    """A copy of a plain checkpoint that says it is packed; for what is refused before a weight is read."""
    shutil.copytree(plain, folder)
    mark(folder, quantization)
    return folder


def require(quantization: str) -> None:
    """Skip the test where the package that this quantisation needs is not installed."""
    package = PACKAGES[quantization]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install -e '.[dev]')")


def is_plain(module: nn.Module) -> bool:
    """True if all weights of `module` are ordinary floating-point tensors in memory."""
    parameters = list(module.parameters())
    return bool(parameters) and all(
        type(one) in (Tensor, nn.Parameter) and not one.is_meta and one.dtype in ORDINARY
        for one in [*parameters, *module.buffers()]
    )
