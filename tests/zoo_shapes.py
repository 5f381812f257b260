"""The sizes of the tiny models, and the model types that need something of their own."""

from __future__ import annotations

from typing import Any

LAYERS = 4
HEADS = 4
KEY_HEADS = 2
HIDDEN = 32
INNER = 48
EXPERT = 24
EXPERTS = 4
HEAD_DIM = 24
VOCABULARY = 96
POSITIONS = 256


def _each(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


# No width but the hidden size is 32: the tests recognise a writer by its output width.
SIZES: dict[str, Any] = {
    **_each(HIDDEN, "hidden_size d_model n_embd emb_dim"),
    **_each(
        LAYERS,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_encoder_layers num_decoder_layers depth num_blocks",
    ),
    **_each(
        HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "swa_num_attention_heads",
    ),
    **_each(KEY_HEADS, "num_key_value_heads num_kv_heads swa_num_key_value_heads"),
    **_each(HEAD_DIM, "head_dim swa_head_dim dim_head kv_channels attention_head_dim d_kv"),
    **_each(
        INNER,
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner ffn_hidden_size dff "
        "dim_ff d_inner d_ff feed_forward_size mlp_dim dense_intermediate_size "
        "intermediate_size_mlp prefix_dense_intermediate_size",
    ),
    **_each(
        EXPERT,
        "moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size "
        "shared_intermediate_size moe_shared_expert_intermediate_size "
        "shared_experts_intermediate_size",
    ),
    **_each(EXPERTS, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_each(2, "num_experts_per_tok moe_topk moe_k top_k_experts"),
    **_each(1, "num_shared_experts n_shared_experts moe_num_shared_experts"),
    **_each(2, "n_group"),
    **_each(1, "topk_group first_k_dense_replace num_dense_layers"),
    **_each(0, "num_mtp_layers num_nextn_predict_layers"),
    # Multi-head latent attention, and the indexers of sparse attention.
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 4,
    # Mamba, short convolutions and linear attention.
    **_each(
        8,
        "state_size ssm_state_size mamba_d_state mamba_n_heads mamba_num_heads n_mamba_heads "
        "mamba_d_head mamba_head_dim",
    ),
    **_each(16, "mamba_chunk_size chunk_size"),
    **_each(12, "linear_key_head_dim linear_value_head_dim linear_head_dim"),
    "linear_num_key_heads": KEY_HEADS,
    **_each(HEADS, "linear_num_value_heads linear_num_heads"),
    # Vocabulary, positions, windows shorter than a test's prompt.
    "vocab_size": VOCABULARY,
    **_each(POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len context_length"),
    **_each(8, "sliding_window attention_window_size sliding_window_size local_attention"),
    "bos_token_id": None,
    **_each(1, "eos_token_id pad_token_id"),
    "is_decoder": True,
    # Tables and ranks that are large by default.
    "rotary_dim": 4,
    "zero_expert_num": 2,
    "lru_width": 40,
    **_each(8, "window_size adapter_rank attention_chunk_size block_multiple_of"),
    **_each(VOCABULARY, "vocab_size_per_layer_input unpadded_vocab_size"),
    **_each(VOCABULARY, "pronunciation_vocab_size shape_vocab_size"),
    **_each(12, "pronunciation_embed_dim shape_embed_dim"),
    **_each(12, "router_hidden_size hidden_size_per_layer_input"),
    # Towers for images and sound, which no test of text runs through.
    **_each(32, "image_size crop_size position_embedding_size num_position_embeddings"),
    **_each(8, "patch_size bias_max_distance num_filters"),
    **_each(
        INNER, "mm_embed_dim mm_posemb_size audio_embed_dim vision_output_dim projector_input_dim"
    ),
    **_each(HIDDEN, "out_hidden_size projector_output_dim ext_pw_out_channel"),
    **_each(
        HIDDEN,
        "depthwise_separable_out_channel nemo_conv_channels conv_hidden_size output_proj_dims",
    ),
}

# Fields whose default of None switches something off.
KEEP = frozenset({"n_group", "topk_group", "sliding_window", "q_lora_rank"})

_LINEAR_FULL = ["linear_attention", "full_attention"] * 2
_SLIDING_FULL = ["sliding_attention", "full_attention"] * 2
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_DENSE_SPARSE = ["dense", "sparse", "sparse", "sparse"]

# What the sizes above cannot say. A key of a composite configuration holds its part's own entry.
TYPES: dict[str, dict[str, Any]] = {
    # Attention layers are named by their indices, and by default there are none.
    "bamba": {"attn_layer_indices": [1, 3]},
    # A byte model: local encoder, patcher, global model and local decoder. The cache asks the
    # whole configuration for a depth that only its parts have.
    "blt": {
        "num_hidden_layers": LAYERS,
        "encoder_hash_byte_group_vocab": 64,
        "patching_threshold": 4.45,  # near the entropy of its random bytes
        "global_config": {"hidden_size": 64},
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    # Every layer type must name its rotary parameters; None is a layer without positions.
    "cohere_compass_text": {
        "layer_types": _SLIDING_FULL,
        "rope_parameters": {
            "sliding_attention": _ROPE,
            "full_attention": None,
        },
    },
    # The attention and expert parts are no declared sub-configurations, and the attention reads
    # a `rope_theta` that its own class does not have, and cannot run without its clipping.
    "dbrx": {
        "attn_config": {"kv_n_heads": KEY_HEADS, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": EXPERT, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    # Rotary dimensions are a fixed share of the head; the compression rates are far beyond a
    # prompt of ten tokens, and sliding layers are not in the default pattern.
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.25,
        "o_groups": 2,
        "o_lora_rank": 12,
        "index_topk": 2,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "layer_types": [
            "sliding_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"],
    },
    # The adapters must agree with the widths of the parts they join.
    "dots3_note": {
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN, "head_dim": 8},
        "audio_config": {
            "adapter_input_size": HIDDEN,
            "adapter_out_dim": HIDDEN,
            "downsample_hidden_size": 8,
            "feature_size": 16,
        },
    },
    # Sliding layers have latent attention of their own sizes.
    "dots3_note_text": {
        "head_dim": 12,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 20,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 12,
    },
    "falcon_h1": {"mamba_d_ssm": 2 * HIDDEN},
    # The last two layers read the keys and values of the last layer of their kind before them.
    "gemma3n_text": {
        "layer_types": _SLIDING_FULL,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
        "laurel_rank": 8,
    },
    # The large models are mixtures of experts, the small ones share keys and values and embed
    # the token anew for every layer.
    "gemma4_text": {"layer_types": _SLIDING_FULL, "global_head_dim": 40, "num_kv_shared_layers": 2},
    "gemma4": {
        "text_config": {
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "attention_k_eq_v": True,
        },
    },
    "gemma4_unified_text": {"layer_types": _SLIDING_FULL, "global_head_dim": 40},
    # A layer attends to what the blocks of so many layers before it have written.
    "inkling2_text": {"n_layers_per_attn_res_block": 2},
    "got_ocr2": {"vision_config": {"image_size": 32, "output_channels": 8, "window_size": 2}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": _LINEAR_FULL},
    # Its output projection takes the hidden size for granted.
    "helium": {"head_dim": HIDDEN // HEADS},
    # Mamba and attention, dense and experts: all four pairs occur.
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 0,
    },
    # All sparse and all of one kind by default; released models have dense and sliding layers.
    "cohere2_moe": {"mlp_layer_types": _DENSE_SPARSE},
    "glm_moe_dsa": {"indexer_types": ["full", "full", "shared", "shared"]},
    "inkling_text": {"mlp_layer_types": _DENSE_SPARSE},
    "mellum": {"layer_types": _SLIDING_FULL},
    "ministral": {"layer_types": _SLIDING_FULL},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "laguna": {"layer_types": _SLIDING_FULL, "num_attention_heads_per_layer": [6, 4, 6, 4]},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention"] * 2 + ["minimax_m3_sparse"] * 2,
        "mlp_layer_types": _DENSE_SPARSE,
        "index_block_size": 2,
        "index_topk_blocks": 2,
    },
    # Convolutions are not in the default pattern, and two thirds of the width are the real one.
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "intermediate_size": 72},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mllama": {"text_config": {"cross_attention_layers": [2]}},
    # Its positions are counted from the padding id, and a check of generate() wants them from 1.
    "prophetnet": {"pad_token_id": 0},
    # No default for the indexers, and token n-grams that are embedded into layer 1.
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD_DIM,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 6,
        "ple_layer_ids": [1],
        "ple_embed_dim": 24,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 50,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
    },
    # Hashing draws random rotations anew at every call unless a seed is given.
    "reformer": {
        "attn_layers": ["local", "lsh"] * 2,
        "attention_head_size": HEAD_DIM,
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [12, 20],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    # The configuration rounds the widths of its states up to 64, the layers do not.
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 2.0, "v_dim_factor": 2.0},
    # Both attend to the whole text by default.
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xmod": {"default_language": "en_XX"},
    # A transformer that all hybrid layers share: there must be two of them.
    "zamba": {
        "n_mamba_heads": 2,
        "mamba_expand": 3,  # or a head's own width is the hidden size
        "num_key_value_heads": HEADS,
        "attention_head_dim": 2 * HIDDEN // HEADS,
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", *["linear_attention", "hybrid"] * 2],
    },
    "zamba2": {
        "num_mem_blocks": 2,
        "num_key_value_heads": HEADS,
        "use_shared_attention_adapter": True,
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"] * 2,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "sliding_window": 8,
        "layer_types": ["hybrid", "hybrid_sliding"] * 2,
    },
}

IMPOSSIBLE: dict[str, str] = {
    "gemma3n": "its vision tower is a TimmWrapperModel, and the package timm is not installed",
    **_each(
        "forward() raises without the inputs_embeds and shared_kv_states of the model it assists",
        "gemma4_assistant gemma4_unified_assistant",
    ),
    **_each(
        "from_config hands the composite configuration to the class of the decoder, which reads "
        "its fields at the top; its ids are audio codes in 4 codebooks",
        "musicgen musicgen_melody",
    ),
}
