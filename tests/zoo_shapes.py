"""How small: values for the names that configurations share, and what some types need beside them."""

from __future__ import annotations

LAYERS = 4

SMALL: dict[str, object] = {
    # Widths: d differs from the others, so that a writer can be told by the width of its output.
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "feed_forward_size", "feedforward_hidden_size"), 48),
    **dict.fromkeys(("ffn_hidden_size", "dense_ffn_hidden_size", "block_ff_dim"), 48),
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 40,
    "shared_intermediate_size": 40,
    "expert_ffn_hidden_size": 24,
    # Depth.
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 2),
    # Heads.
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 16,
    # Multi-head latent attention.
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    "qk_head_dim": 16,
    **dict.fromkeys(("index_head_dim",), 16),
    **dict.fromkeys(("index_n_heads",), 2),
    "index_topk": 8,
    # Mamba, linear attention.
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    "rotary_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    # Tokens.
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 256),
    **dict.fromkeys(("eos_token_id", "pad_token_id"), 1),
    "bos_token_id": 0,
    "sliding_window": 6,
    "type_vocab_size": 2,
    # Per-layer embeddings.
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    # Byte models, vision and audio parts.
    "encoder_hash_byte_group_vocab": 100,
    "nemo_conv_channels": 16,
    "ext_pw_out_channel": 32,
    "output_channels": 16,
    "mlp_dim": 48,
    "image_size": 28,
    "patch_size": 14,
    "depth": 2,
}

_LATENT = {"head_dim": 8, "num_key_value_heads": 4}
"""Multi-head latent attention: rotary embeddings are as wide as head_dim says; every head has its keys."""

_QWEN4 = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16} | {
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

EXCEPTIONS: dict[str, dict[str, object]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32"), _LATENT),
    **dict.fromkeys(("glm_moe_dsa", "longcat_flash", "youtu"), _LATENT),
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cpmant": {"dim_ff": 48, "dim_head": 16, "position_bias_num_buckets": 8},
    "ctrl": {"dff": 48},
    "dots1": {"layer_types": ["full_attention", "sliding_attention"] * 2, "n_shared_experts": 1},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"moe_top_k": 2},
    },
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"intermediate_size": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "helium": {"head_dim": 8},  # its heads make up the width
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "attention_head_size": 16,
        "num_buckets": 2,
        "lsh_attn_chunk_length": 4,
        "local_attn_chunk_length": 4,
    },
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16}
    | {"pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "rwkv": {"attention_hidden_size": 32},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""Beside SMALL, and in its place; values of tables belong to the sub-configuration of that name."""

CANNOT: dict[str, str] = {
    **dict.fromkeys(
        ("musicgen", "musicgen_melody"),
        "its configuration is that of a text-to-audio model, from which transformers cannot build the "
        "decoder that it lists as causal language model",
    ),
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        "a drafter that reads the keys and values of the model that it drafts for; none by itself",
    ),
    "gemma3n": "needs the package timm, which needs torchvision",
}
