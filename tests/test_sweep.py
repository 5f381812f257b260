"""The sweep on some fifty types that stand for all; `make sweep` runs it on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from architectures_page import PAGE, line
from sweep import check
from zoo import MODEL_TYPES

REPRESENTATIVE = (
    # Dense: softmax attention, parallel blocks, biases, transposed matrices, tied and sandwich norms.
    *(
        "llama",
        "mistral",
        "qwen3",
        "phi",
        "phi3",
        "gemma2",
        "gemma3_text",
        "glm4",
        "olmo2",
        "cohere2",
    ),
    *(
        "falcon",
        "granite",
        "nemotron",
        "stablelm",
        "starcoder2",
        "gpt2",
        "gpt_neox",
        "opt",
        "bloom",
        "mpt",
    ),
    # Experts: fused both ways round, with biases, shared ones with and without gates.
    *("qwen2_moe", "qwen3_moe", "mixtral", "phimoe", "gpt_oss", "deepseek_v3", "llama4_text"),
    *("granitemoehybrid", "dbrx", "jetmoe"),
    # Recurrent and hybrid.
    *("qwen3_next", "falcon_h1", "jamba", "lfm2_moe", "mamba2", "zamba2", "recurrent_gemma"),
    # Several streams, per-layer embeddings, norms on the stream.
    *("gemma3n_text", "gemma4_text", "deepseek_v4", "minimax", "bert"),
    # Image-text: rotary embeddings in sections, experts of their own for images, positions from 1.
    *(
        "mistral3",
        "qwen2_5_vl",
        "qwen3_vl",
        "kimi_k25",
        "ernie4_5_vl_moe",
        "paligemma",
        "granite_speech",
    ),
    # Not covered, and said so.
    *("zaya", "xlnet"),
)
_PAGE = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", REPRESENTATIVE)
def test_what_the_page_says_of_a_type_holds(model_type: str, tmp_path: Path) -> None:
    assert line(check(model_type, tmp_path)) in _PAGE


def test_the_page_has_a_row_for_every_type() -> None:
    assert [row.split(" | ")[0][2:] for row in _PAGE if row.startswith("| ")][1:] == [*MODEL_TYPES]


def test_the_types_that_were_asked_for_are_covered() -> None:
    asked = (
        "llama mistral ministral3 qwen2 qwen3 qwen3_5 qwen2_moe qwen3_moe qwen3_next qwen3_5_moe mixtral phi "
        "phi3 phimoe gemma gemma2 gemma3_text gemma3n_text gemma4_text gpt_oss deepseek_v2 deepseek_v3 glm "
        "glm4 glm4_moe llama4_text olmo2 olmoe cohere cohere2 falcon falcon_h1 granite granitemoe "
        "granitemoehybrid lfm2 lfm2_moe nemotron nemotron_h bamba jamba zamba2 mamba mamba2 smollm3 "
        "starcoder2 stablelm exaone4 ernie4_5_moe hunyuan_v1_moe dots1 minimax gpt2 gpt_neox opt bloom mpt "
        "mistral3 qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe llava llava_next internvl glm4v kimi_k25 "
        "idefics3 smolvlm aya_vision cohere2_vision lfm2_vl minimax_m3_vl gemma3 gemma4 llama4 mllama voxtral"
    )
    verdicts = {row.split(" | ")[0][2:]: row.split(" | ")[1] for row in _PAGE if row[:2] == "| "}
    assert not [one for one in asked.split() if not verdicts[one].startswith("covered")]
