"""Adapters where people use them: peft, transformers, vLLM; and straight from an edit file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.served import unservable
from excise.edits.stored import FittedEdit
from excise.edits.virtual import VirtualEdits
from excise.operators.operator import unit
from packed_models import marked
from test_diff import gpt2_model, moe_model
from test_realisations import logits, random_edit
from vllm_rules import complaints

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def adapter_of(model: PreTrainedModel, edit: Edit, folder: Path) -> Path:
    model.save_pretrained(folder / "base")
    base = str(folder / "base")
    save_adapter(FittedEdit.of(edit, model), AdapterFolder(folder / "adapter", base))
    return folder / "adapter"


@pytest.mark.parametrize("name", ["llama", "qwen3, tied", "gemma2, post-norms and sliding window"])
@pytest.mark.parametrize("kind", ["orthogonal", "two directions"])
def test_vllm_takes_adapters_of_dense_models(name: str, kind: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    folder = adapter_of(model, random_edit(model, examine(model), kind), tmp_path)
    assert complaints(folder, model) == []
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["lora_alpha"] == config["r"]  # vLLM scales by their ratio
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "vllm serve BASE --enable-lora --lora-modules" in card


def test_what_vllm_does_not_take_is_said(tmp_path: Path) -> None:
    for model, rule, told in (
        (tiny_model("llama with biases"), "3: bias lora_only", "biases"),
        (moe_model(), "8: model.layers.0.mlp.experts.down_proj", "experts"),
    ):
        place = tmp_path / told
        edit = random_edit(model, examine(model), "orthogonal")
        folder = adapter_of(model, edit, place)
        assert rule in complaints(folder, model)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"vLLM cannot load this adapter: it changes {told}" in card
        tensors = [tensor for writer in examine(model).writers for tensor in writer.tensors]
        assert told in (unservable(tensors) or "")


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    model = tiny_model()
    folder = adapter_of(model, random_edit(model, examine(model), "orthogonal"), tmp_path)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    for change, rule in (
        ({"use_dora": True}, "2: use_dora"),
        ({"modules_to_save": ["lm_head"]}, "2: modules_to_save"),
        ({"lora_bias": True}, "2: lora_bias"),
        ({"init_lora_weights": "pissa"}, "2: init_lora_weights pissa"),
        ({"r": 0}, "3: rank 0"),
        ({"r": 32}, "3: rank 32"),
    ):
        path.write_text(json.dumps(config | change), encoding="utf-8")
        assert rule in complaints(folder, model)
    path.write_text(json.dumps(config), encoding="utf-8")
    for name, rule in (
        ("model.x.lora_A.weight", "5"),
        ("base_model.model.a.other.lora_A.weight", "6"),
    ):
        save_file({name: torch.ones(1, 2)}, weights)
        assert [one[0] for one in complaints(folder, model)] == [rule]
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file({name: torch.ones(1, 5)}, weights)
    assert complaints(folder, model)[0].startswith("7: ")
    weights.unlink()
    assert complaints(folder, model) == ["4: no adapter_model.safetensors"]


def test_transformers_loads_the_adapter_by_itself(tmp_path: Path) -> None:
    model, prompts = tiny_model(), random_prompts(3)
    edit = random_edit(model, examine(model), "discriminant")
    folder = adapter_of(model, edit, tmp_path)
    with VirtualEdits(model, edit.writers) as edits:
        edits.use(edit)
        expected = logits(model, prompts)
    # The folder names its base, and that is enough.
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(loaded, prompts), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["orthogonal", "row_normalised"])
@pytest.mark.parametrize("build", [gpt2_model, moe_model])
def test_an_adapter_from_an_edit_file_is_that_of_the_loaded_model(
    build: object, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: PreTrainedModel = build()  # type: ignore[operator]
    anatomy = examine(model)
    edit = random_edit(model, anatomy, kind)
    blocks = tuple(one.name for one in anatomy.writers if one.matrices > 1)
    if kind == "row_normalised" and blocks:
        edit = Edit(kind, edit.writers, unit(edit.u), unit(edit.u), edit.strengths, blocks)  # type: ignore[arg-type]
        edit = Edit(
            edit.kind, blocks, *(one[1::2] for one in (edit.u, edit.v, edit.strengths)), blocks
        )
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = Base.of(resolve(str(tmp_path / "base")))
    Edit(**{**vars(edit), "base": base}).save(tmp_path / "edit.safetensors")
    save_adapter(FittedEdit.of(edit, model), AdapterFolder(tmp_path / "loaded", base.model))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the whole model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
        assert main(["export", "edit.safetensors", "--adapter", "streamed"]) == 0
    expected = load_file(tmp_path / "loaded" / "adapter_model.safetensors")
    found = load_file(tmp_path / "streamed" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    PeftModel.from_pretrained(fresh, str(tmp_path / "streamed")).merge_and_unload()


def test_an_edit_file_goes_with_its_own_model(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("llama")
    edit = random_edit(model, examine(model), "orthogonal")
    edit.save(tmp_path / "unknown.safetensors")
    based = Edit(**{**vars(edit), "base": Base.of(resolve(str(model_folder)))})
    based.save(tmp_path / "edit.safetensors")
    wide = torch.eye(len(edit.writers), 40)
    Edit(edit.kind, edit.writers, wide, wide, edit.strengths).save(tmp_path / "wide.safetensors")
    shutil.copytree(model_folder, tmp_path / "copy")
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    marked(model_folder, tmp_path / "packed", {"quant_method": "fp8"})
    (tmp_path / "run").mkdir()
    capsys.readouterr()
    for words, told in (
        (["unknown.safetensors", "--adapter", "out"], "does not name its model"),
        (["edit.safetensors", "other", "--adapter", "out"], "other is not the checkpoint that the"),
        (["unknown.safetensors", "copy", "--adapter", "out"], "does not name its checkpoint"),
        (["wide.safetensors", "copy", "--adapter", "out", "--force"], "the edit's 40"),
        (["run", "--adapter", "out", "--force"], "--force: goes with an edit file"),
        (
            ["edit.safetensors", "--adapter", "out", "--packed", "plain"],
            "--packed: goes with a run",
        ),
        (["edit.safetensors", "--adapter", "out", "--device=cpu"], "--device: goes with a run"),
        (["edit.safetensors", "packed", "--adapter", "out"], "packed is stored as FP8"),
        (["edit.safetensors", "--save", "out"], "excise apply EDIT MODEL OUT"),
        (["run", "copy", "--adapter", "out"], "is a run, which names its model"),
    ):
        assert main(["export", *words]) == 2, words
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert main(["export", "edit.safetensors", "copy", "--adapter", "out"]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    words = ["export", "edit.safetensors", "other", "--adapter", "forced"]
    assert main([*words, "--force"]) == 0
    assert "continuing with force (--force)" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "forced" / "adapter_model.safetensors").is_file()


def test_a_run_that_was_told_of_a_writer_exports_it(small: list[str], tmp_path: Path) -> None:
    claim = "--writers=self_attn.q_*=mlp.down_proj"
    told = [*small, claim, "--run-dir", "run", "--yes", "--kind", "orthogonal"]
    # One at a time: the best one of the trials so proposed edits what the claim is about.
    assert main([*told, "--candidates", "1"]) == 0
    assert main(["export", "run", "--adapter", "out"]) == 0
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert any("q_proj" in name for name in tensors)
