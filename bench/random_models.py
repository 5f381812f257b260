"""Random models of the shapes of published ones, made from configurations alone, on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3Config,
)

SHAPES: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "tiny": lambda: Qwen3Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        tie_word_embeddings=True,
    ),
    "tiny-moe": lambda: Qwen2MoeConfig(
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=512,
    ),
    "Qwen3-0.6B": lambda: Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "Qwen3-4B": lambda: Qwen3Config(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "Qwen1.5-MoE-A2.7B": lambda: Qwen2MoeConfig(
        hidden_size=2048,
        intermediate_size=5632,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        num_experts=60,
        num_experts_per_tok=4,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=151936,
    ),
}
"""The large ones as the config.json of each model on the hub has them."""
LARGE = [name for name in SHAPES if not name.startswith("tiny")]


def llama(layers: int, width: int, vocabulary: int = 4096) -> PreTrainedConfig:
    """The shape of a Llama: heads of 64, an MLP eight thirds as wide as the stream."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=vocabulary,
    )


@torch.no_grad()
def random_model(
    config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """A random model; no answer of it ends before its greatest length."""
    torch.manual_seed(0)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def random_prompts(count: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Prompts of the same number of tokens, the first quarter of them common to all."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        drawn: list[int] = torch.randint(vocabulary, (length,), generator=generator).tolist()
        return drawn

    beginning = ids(tokens // 4)
    return [beginning + ids(tokens - len(beginning)) for _ in range(count)]
