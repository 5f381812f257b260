"""What is written of a GGUF file can be read by transformers 4 and 5: the keys of both stand in it.

Version 4.57 itself was run on such folders by hand: same rotary bases, same token ids, same logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import packed_models as packed
from excise.checkpoint.source import resolve
from excise.checkpoint.transformers4 import config_for_both_versions, tokenizer_for_both_versions
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.saving.export import write_plain

BASE = 54321.0


def test_a_folder_made_of_a_gguf_file_names_its_rotary_base_and_its_tokenizer_for_both(
    tmp_path: Path,
) -> None:
    packed.write_gguf(tmp_path / "model.gguf", tokenizer=True, rotary_base=BASE)
    loaded = load(
        resolve(str(tmp_path / "model.gguf")), LoadOptions(dtypes=("float32",), prepack=False)
    )
    folder = tmp_path / "plain"
    folder.mkdir()
    assert write_plain(loaded, folder) == []
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": BASE, "rope_type": "default"}
    assert (config["rope_theta"], config["rope_scaling"]) == (BASE, None)
    assert config["dtype"] == config["torch_dtype"] == "float32"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"backend", "is_local", "local_files_only"} & tokenizer.keys()
    again = AutoTokenizer.from_pretrained(folder)
    text = "<|user|> hello there <|end|>"
    assert again(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    assert again.chat_template == loaded.tokenizer.chat_template
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_theta"] == BASE


SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "factor": 8.0}
ROTARY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "llama",
        SCALED | {"rope_theta": BASE},
        {"rope_theta": BASE, "rope_scaling": SCALED},
    ),
    (
        "stablelm",
        {"rope_type": "default", "rope_theta": BASE, "partial_rotary_factor": 0.3},
        {"rope_theta": BASE, "rope_scaling": None, "partial_rotary_factor": 0.3},
    ),
    (
        "gemma3_text",
        {
            "full_attention": LINEAR | {"rope_theta": BASE},
            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
        },
        {"rope_theta": BASE, "rope_scaling": LINEAR, "rope_local_base_freq": 77.0},
    ),
]


@pytest.mark.parametrize(("model_type", "rotary", "older"), ROTARY)
def test_scaled_positions_have_the_older_keys_and_version_5_reads_the_same(
    model_type: str, rotary: dict[str, Any], older: dict[str, Any], tmp_path: Path
) -> None:
    config = CONFIG_MAPPING[model_type](rope_parameters=rotary, dtype="bfloat16")
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    inexpressible: list[str] = []
    both = config_for_both_versions(json.loads(path.read_text()), inexpressible)
    assert inexpressible == []
    assert {key: both[key] for key in older} == older
    path.write_text(json.dumps(both))
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_what_version_4_cannot_express_is_reported() -> None:
    inexpressible: list[str] = []
    kinds = {"full_attention": {"rope_theta": 1.0}, "sliding_attention": {"rope_theta": 2.0}}
    both = config_for_both_versions({"model_type": "new", "rope_parameters": kinds}, inexpressible)
    assert "rope_theta" not in both
    assert (
        "no setting for rotary positions by kind of layer (full_attention, sliding_att"
        in inexpressible[0]
    )
    inner = {"text_config": {"rope_parameters": {"rope_theta": 3.0}, "dtype": "float16"}}
    text = config_for_both_versions(inner, inexpressible)["text_config"]
    assert (text["rope_theta"], text["torch_dtype"], len(inexpressible)) == (3.0, "float16", 1)


def test_special_tokens_in_a_list_have_the_name_that_both_read() -> None:
    both = tokenizer_for_both_versions(
        {"tokenizer_class": "GemmaTokenizer", "extra_special_tokens": ["<a>"]}
    )
    assert both == {"tokenizer_class": "GemmaTokenizer", "additional_special_tokens": ["<a>"]}
    table = {"extra_special_tokens": {"image_token": "<i>"}}
    assert tokenizer_for_both_versions(table) == table
