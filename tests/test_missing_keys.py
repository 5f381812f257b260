"""Checkpoints that lack weights are refused by name, whatever they are stored as; what is spare is noted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig

import packed_models as packed
from conftest import SHAPE, fill, tiny_model, tiny_tokenizer, write_prompts
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.errors import ModelError
from excise.models.load import LoadedModel, load
from excise.models.options import LoadOptions

Tensors = dict[str, Tensor]
pytestmark = pytest.mark.filterwarnings("ignore")
DOWN = "model.layers.1.mlp.down_proj.weight"


def without(*ends: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(ends)}


def changed(folder: Path, change: Callable[[Tensors], Tensors], to: Path) -> Path:
    """A copy of a checkpoint of one file with other tensors."""
    shutil.copytree(folder, to)
    path = to / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in change(load_file(path)).items()}
    save_file(tensors, path, {"format": "pt"})
    return to


def refusal(folder: Path, **arguments: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(resolve(str(folder)), LoadOptions(**{"dtypes": ("float32",)} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def float32(folder: Path) -> LoadedModel:
    return load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))


@pytest.fixture(scope="module")
def experts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "experts"
    config = MixtralConfig(
        **{**SHAPE, "num_hidden_layers": 2}, num_local_experts=3, num_experts_per_tok=2
    )
    fill(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_head_that_nothing_is_tied_to(model_folder: Path, tmp_path: Path) -> None:
    text = refusal(changed(model_folder, without("lm_head.weight"), tmp_path / "m"))
    assert "the checkpoint lacks lm_head.weight, which would be initialised at random" in text
    assert '"tie_word_embeddings": true' in text


def test_a_matrix_and_several(model_folder: Path, tmp_path: Path) -> None:
    assert f"lacks {DOWN}, which" in refusal(changed(model_folder, without(DOWN), tmp_path / "a"))
    text = refusal(changed(model_folder, without("down_proj.weight"), tmp_path / "b"))
    assert "lacks model.layers.0.mlp.down_proj.weight and 3 more tensors" in text


def test_a_prefix_before_every_name(model_folder: Path, tmp_path: Path) -> None:
    folder = changed(
        model_folder,
        lambda tensors: {f"base_model.model.{k}": v for k, v in tensors.items()},
        tmp_path / "m",
    )
    assert "it holds base_model.model.lm_head.weight, which the model does not use" in refusal(
        folder
    )


def test_another_shape(model_folder: Path, tmp_path: Path) -> None:
    folder = changed(
        model_folder, lambda tensors: {**tensors, DOWN: tensors[DOWN][:-1]}, tmp_path / "m"
    )
    assert f"{DOWN} has the shape 31×48 in the checkpoint, but config.json gives 32×48" in refusal(
        folder
    )


def test_experts(experts_folder: Path, tmp_path: Path) -> None:
    float32(experts_folder)
    one = "layers.1.block_sparse_moe.experts.1.w2.weight"
    text = refusal(changed(experts_folder, without(one), tmp_path / "one"))
    assert "model.layers.1.mlp.experts.down_proj has the shape 2×32×48" in text
    text = refusal(
        changed(
            experts_folder,
            lambda tensors: {k: v[:, :-1] if k.endswith(one) else v for k, v in tensors.items()},
            tmp_path / "cut",
        )
    )
    assert "parts of model.layers.1.mlp.experts.down_proj do not fit together" in text


def test_old_pytorch_files(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(without(DOWN)(tiny_model().state_dict()), folder / "pytorch_model.bin")
    assert f"lacks {DOWN}" in refusal(folder)


def test_shards_that_the_index_and_the_files_agree_on(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    tiny_model().save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = folder / index["weight_map"].pop(DOWN)
    path.write_text(json.dumps(index))
    save_file(without(DOWN)(load_file(shard)), shard, {"format": "pt"})
    assert f"lacks {DOWN}" in refusal(folder)


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    packed.write_gguf(path, tokenizer=True, without="blk.1.ffn_down.weight")
    assert f"lacks {DOWN}" in refusal(path)
    packed.write_gguf(path, tokenizer=True)
    assert float32(path).notes == ()


def test_weights_that_are_packed_while_loading(tmp_path: Path) -> None:
    packed.require("bnb_4bit")
    folder = changed(packed.save("llama", tmp_path / "plain"), without(DOWN), tmp_path / "m")
    text = refusal(folder, quantization="bnb_4bit")
    assert f"lacks {DOWN}, or it cannot be quantised while loading" in text


def test_the_scales_of_packed_weights(tmp_path: Path) -> None:
    packed.write_fp8("llama", tmp_path / "fp8")
    float32(tmp_path / "fp8")
    folder = changed(tmp_path / "fp8", without(f"{DOWN}_scale_inv"), tmp_path / "m")
    assert f"{DOWN} is packed, and the checkpoint lacks its scales" in refusal(folder)
    packed.write_mxfp4(tmp_path / "mxfp4")
    scales = "layers.1.mlp.experts.down_proj_scales"
    folder = changed(tmp_path / "mxfp4", without(scales), tmp_path / "n")
    assert "model.layers.1.mlp.experts.down_proj" in refusal(folder)


@pytest.mark.parametrize("limit", [60_000, 150_000])
def test_weights_that_go_to_disk(limit: int, tmp_path: Path) -> None:
    plain = packed.save("llama", tmp_path / "plain")
    spread = {"max_memory": {"cpu": limit}, "offload_folder": tmp_path / "offloaded"}
    folder = changed(plain, without(DOWN), tmp_path / "m")
    assert f"lacks {DOWN}" in refusal(folder, **spread)
    folder = changed(
        plain, lambda tensors: {**tensors, DOWN: tensors[DOWN][:, :-1]}, tmp_path / "cut"
    )
    assert "64, 127" in refusal(folder, **spread)


def test_code_that_comes_with_the_model(model_folder: Path, tmp_path: Path) -> None:
    def own(folder: Path) -> Path:
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "unheard_of"
        config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class Config(LlamaConfig):\n    model_type = 'unheard_of'\n"
            "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        )
        return folder

    whole = own(changed(model_folder, dict, tmp_path / "whole"))
    assert (
        load(resolve(str(whole)), LoadOptions(dtypes=("float32",), trust_remote_code=True)).notes
        == ()
    )
    lacking = own(changed(model_folder, without(DOWN), tmp_path / "lacking"))
    assert f"lacks {DOWN}" in refusal(lacking, trust_remote_code=True)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    tiny_model("qwen3, tied").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    loaded = float32(folder)
    assert loaded.notes == ()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    text = refusal(changed(folder, without("embed_tokens.weight"), tmp_path / "m"))
    assert "lm_head.weight and 1 more" in text


def test_what_the_model_has_no_place_for_is_a_note(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draft = {"mtp.layers.0.mlp.down_proj.weight": torch.ones(4), "mtp.norm.weight": torch.ones(4)}
    folder = changed(model_folder, lambda tensors: tensors | draft, tmp_path / "m")
    (note,) = float32(folder).notes
    assert note == (
        "the checkpoint holds mtp.layers.0.mlp.down_proj.weight and 1 more tensors, which this model does "
        "not use"
    )
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_every_command_that_loads_refuses(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], empty_directory: None
) -> None:
    folder = changed(model_folder, without("lm_head.weight"), tmp_path / "m")
    sets = [
        f"--{name.replace('_', '-')}={path}" for name, path in write_prompts(tmp_path / "p").items()
    ]
    whole, lacking = str(model_folder), str(folder)
    for command in (
        ["inspect", lacking],
        ["bench", lacking, *sets],
        ["evaluate", lacking, f"--against={whole}", *sets],
        ["evaluate", whole, f"--against={lacking}", *sets],
        [lacking, *sets, "--yes", f"--run-dir={tmp_path / 'run'}"],
    ):
        assert main([*command, "--dtype=float32"]) == 2
        assert "lacks lm_head.weight" in capsys.readouterr().err
