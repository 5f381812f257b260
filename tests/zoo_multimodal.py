"""Image-text and any-to-any types: what the general sizes cannot say of them, and which cannot be small."""

from __future__ import annotations

from typing import Any

from zoo_shapes import EXPERT, HEADS, HIDDEN, INNER, LAYERS


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary embeddings of three sections, for time, height and width."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **more}


_THREE = {"rope_parameters": _rope(2, 1, 1)}
_GRANITE_SPEECH = {
    "encoder_config": {"hidden_dim": HIDDEN},
    "projector_config": {"hidden_size": 24, "encoder_hidden_size": HIDDEN},
}
_TIMM = "its vision tower is a TimmWrapperModel, and the package timm is not installed"

MULTIMODAL: dict[str, dict[str, Any]] = {
    "chameleon": {
        "vocabulary_map": {"<image>": 90, "IMGIMGAZ": 91, "IMGIMGBZ": 92},
        "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "num_embeddings": 2},
    },
    "cosmos3_edge_text": {"rope_parameters": _rope(4, 4, 4)},
    # A convolution before every window of its queries, of which there are as many as the rate says.
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 1]],
        "spatial_target_layers": [0, 1, 2, 3],
        "vision_config": {"hidden_size": 64},
    },
    **dict.fromkeys(
        (
            "glm4v_text",
            "glm_ocr_text",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen2_5_omni_text",
        ),
        _THREE,
    ),
    "glm4v_moe_text": {"rope_parameters": _rope(1, 1, 0, partial_rotary_factor=0.5)},
    "paddleocr_vl_text": {"rope_parameters": _rope(4, 4, 4)},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [EXPERT, 20],
        "rope_parameters": _rope(1, 1, 2),
    },
    "hunyuan_vl_text": {"rope_parameters": _rope(4, 4, 4, xdrope_section=[4, 4, 4])},
    "deepseek_ocr2_text": {
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "n_group": 1,
        "topk_group": 1,
    },
    "glm5_next_text": {"index_kpool": 2, "num_key_value_heads": HEADS, "qk_rope_head_dim": 0},
    "inkling2": {"vision_config": {"text_hidden_size": HIDDEN}},
    "kosmos-2.5": {
        "text_config": {"embed_dim": HIDDEN, "layers": LAYERS, "ffn_dim": INNER},
        "vision_config": {"patch_embed_hidden_size": 24, "max_num_patches": 16},
        "latent_query_num": 4,
    },
    "janus": {
        "vq_config": {
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_embeddings": 64,
            "latent_channels": 16,
            "projection_dim": 24,
            "image_token_embed_dim": 24,
        }
    },
    "mistral4": {"head_dim": 8},
    "qwen2_vl": {"vision_config": {"embed_dim": HIDDEN}},
    "nemotron_h_omni": {"audio_config": None},
    "granite_speech": _GRANITE_SPEECH,
    "granite_speech_plus": _GRANITE_SPEECH,
    "molmo2": {
        "vision_config": {"image_size": [32, 32]},
        "adapter_config": {"vision_feature_layer": [3, 1]},
    },
    # What `generate` looks for, and only the whole model's configuration has by default.
    "qwen2_5_omni_thinker": {"vision_start_token_id": 61},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 61},
    "muse_spark": {
        "projector_hidden_size": INNER,
        "out_hidden_size": HIDDEN,
        "audio_config": {"hidden_sizes": [12, 12, 16, 16]},
    },
    "muse_spark_text": {"moe_hidden_size": 20},
    "step3p5": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": HIDDEN // 4}},
}
"""As `zoo_shapes.TYPES`."""

NOT_SMALL: dict[str, str] = {
    "fast_vlm": _TIMM,
    "perception_lm": _TIMM,
    "inkling_mm_model": "its sound tower needs the package scipy, which is not installed",
    **dict.fromkeys(
        ("blip", "blip-2", "instructblip", "instructblipvideo"),
        "forward() raises without an image: its text decoder attends to one, or is given one first",
    ),
    **dict.fromkeys(("idefics", "kosmos-2"), "forward() raises without an image"),
    "diffusion_gemma": "generates whole answers by diffusion, not token by token; excise says so",
    "pi0": "answers with a robot's actions, not with text; excise says so",
    **dict.fromkeys(
        ("qwen2_5_omni", "qwen3_omni_moe"),
        "passes text to its thinker, which is a model type of its own; excise says so",
    ),
    "evolla": "is in no mapping from configurations to models: transformers does not load it by its type",
    **dict.fromkeys(
        (
            "florence2",
            "pix2struct",
            "pp_formulanet",
            "t5gemma2",
            "udop",
            "vision-encoder-decoder",
        ),
        "an encoder-decoder; excise edits decoder-only models, and says so",
    ),
    "kyutai_speech_to_text": "every token is one of text and 32 of sound",
    "nemo_speechlm": "three models for sound in it fix one another's sizes",
    "voxtral_realtime": "forward() raises without sound, of which every token of text gets a piece",
}
"""Types without a tiny model that answers to text, and why."""
