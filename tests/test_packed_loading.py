"""Loading packed and spread weights: what works, and every way in which it is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import packed_models as packed
from conftest import write_prompts
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.errors import ModelError, SaveError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.weights import dense, stored_bytes
from excise.rewrite.plan import require_editable
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.system.quiet import quiet_libraries
from sweep import random_edit

quiet_libraries()


@pytest.mark.parametrize("quantization", sorted(packed.PACKAGES))
def test_quantised_loading(quantization: str, tmp_path: Path) -> None:
    packed.require(quantization)
    folder = packed.save("llama", tmp_path / "plain")
    loaded = load(resolve(str(folder)), LoadOptions(quantization=quantization))  # type: ignore[arg-type]
    assert loaded.attempts == ()
    assert loaded.packing is not None
    assert loaded.precision == f"{loaded.dtype} over {loaded.packing}"
    plain = stored_bytes(packed.plain_model("llama"))
    packed_linear = sum(
        module.in_features * module.out_features
        for name, module in packed.plain_model("llama").named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    )
    others = {"float32": plain - 4 * packed_linear, "bfloat16": (plain - 4 * packed_linear) / 2}
    a_weight = (loaded.bytes - others[loaded.dtype]) / packed_linear
    # Bytes for each number, scales included; what is left over is a quarter at most.
    assert a_weight == pytest.approx(
        {"bnb_4bit": 0.51, "int4": 0.6}.get(quantization, 1.05), abs=0.06
    )
    # The plain checkpoint is what gets rewritten, so that an edited model can be saved.
    require_editable(loaded.source, (), trust_remote_code=False)


@pytest.mark.parametrize("quantization", ["bnb_4bit", "bnb_8bit", "int8"])
def test_checkpoints_that_are_packed_already_load_as_they_are(
    quantization: str, tmp_path: Path
) -> None:
    packed.require(quantization)
    folder = packed.save("llama", tmp_path / "plain")
    first = load(resolve(str(folder)), LoadOptions(quantization=quantization, dtypes=("bfloat16",)))  # type: ignore[arg-type]
    first.model.save_pretrained(tmp_path / "packed")
    first.tokenizer.save_pretrained(tmp_path / "packed")
    source = resolve(str(tmp_path / "packed"))
    again = load(source)
    assert again.packing is not None
    name = packed.writer_names("llama")[0]
    # bitsandbytes packs the scales of 4-bit weights once more when it saves them.
    torch.testing.assert_close(
        dense(again.model.get_submodule(name), "weight"),
        dense(first.model.get_submodule(name), "weight"),
        atol=1e-2 if quantization == "bnb_4bit" else 0,
        rtol=1e-2 if quantization == "bnb_4bit" else 0,
    )
    if quantization == "int8":
        with pytest.raises(SaveError, match="cannot be rewritten; save an adapter") as caught:
            require_editable(source, (), trust_remote_code=False)
        assert "\n" not in str(caught.value)
    else:
        require_editable(source, (), trust_remote_code=False)
    with pytest.raises(ModelError, match="already; leave this setting out"):
        load(source, LoadOptions(quantization="bnb_4bit"))


@pytest.mark.parametrize("form", ["mxfp4", "fp8"])
def test_checkpoints_that_are_unpacked_while_loading_are_saved_packed(
    form: str, tmp_path: Path
) -> None:
    if form == "mxfp4":
        packed.write_mxfp4(tmp_path / form)
    else:
        packed.write_fp8("llama", tmp_path / form)
    source = resolve(str(tmp_path / form))
    require_editable(source, (), trust_remote_code=False)
    loaded = load(source, LoadOptions(dtypes=("float32",)))
    assert loaded.packing is None
    assert loaded.precision == loaded.dtype
    edit = random_edit(examine(loaded.model))
    save_model(loaded, DescribedEdit(edit, ""), tmp_path / "saved")
    names = {path.name for path in (tmp_path / form).iterdir()}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names | {"README.md"}
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == form
    assert load(resolve(str(tmp_path / "saved")), LoadOptions(dtypes=("float32",))).packing is None


def test_what_could_not_be_saved_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.app.model.load", lambda *_, **__: pytest.fail("it was loaded"))
    folder = packed.save("llama", tmp_path / "torchao")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao"}
    (folder / "config.json").write_text(json.dumps(config))
    prompts = write_prompts(tmp_path / "prompts")
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in prompts.items()]
    run_dir = tmp_path / "run"
    saved = tmp_path / "saved"
    arguments = [str(folder), *flags, "--yes", f"--run-dir={run_dir}"]
    assert main([*arguments, f"--save={saved}"]) == 2
    assert "stored as torchao, which cannot be rewritten" in capsys.readouterr().err
    assert not saved.exists()
    assert not run_dir.exists()


def test_memory_limits_offload_and_count_the_same(tmp_path: Path) -> None:
    source = resolve(str(packed.save("llama", tmp_path / "plain")))
    whole = load(source, LoadOptions(dtypes=("float32",)))
    spread = load(
        source,
        LoadOptions(
            dtypes=("float32",), max_memory={"cpu": 60_000}, offload_folder=tmp_path / "offloaded"
        ),
    )
    assert spread.bytes == whole.bytes
    assert spread.attempts == ()
    assert not packed.is_plain(spread.model)
    assert torch.equal(spread.model(packed.IDS).logits, whole.model(packed.IDS).logits)


@pytest.mark.parametrize("quantization", sorted(packed.PACKAGES))
def test_packed_weights_that_do_not_fit_say_so(quantization: str, tmp_path: Path) -> None:
    packed.require(quantization)
    source = resolve(str(packed.save("llama", tmp_path / "plain")))
    with pytest.raises(ModelError, match="have to fit in max_memory") as caught:
        load(
            source,
            LoadOptions(
                quantization=quantization,  # type: ignore[arg-type]
                max_memory={"cpu": 20_000},
                offload_folder=tmp_path / "offloaded",
            ),
        )
    assert "\n" not in str(caught.value)


def test_a_place_for_weights_on_disk_is_asked_for(tmp_path: Path) -> None:
    source = resolve(str(packed.save("qwen3_moe", tmp_path / "plain")))
    with pytest.raises(ModelError, match="give offload_folder "):
        load(source, LoadOptions(dtypes=("float32",), max_memory={"cpu": 60_000}))


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = packed.save("llama", tmp_path / "plain")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"need the package bitsandbytes.*excise\[quantized\]"):
        load(resolve(str(plain)), LoadOptions(quantization="bnb_4bit"))
    for method, package in (("gptq", "gptqmodel"), ("compressed-tensors", "compressed-tensors")):
        folder = packed.marked(plain, tmp_path / method, {"quant_method": method, "bits": 4})
        with pytest.raises(ModelError, match=f"pip install {package}") as caught:
            load(resolve(str(folder)))
        assert "\n" not in str(caught.value)


def test_an_unknown_method_and_a_file_that_is_unpacked_anyway(tmp_path: Path) -> None:
    plain = packed.save("llama", tmp_path / "plain")
    folder = packed.marked(plain, tmp_path / "eetq", {"quant_method": "eetq"})
    with pytest.raises(ModelError, match="eetq") as caught:
        load(resolve(str(folder)))
    assert "\n" not in str(caught.value)
    packed.write_gguf(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="GGUF file, which is dequantised"):
        load(resolve(str(tmp_path / "model.gguf")), LoadOptions(quantization="int8"))


def test_code_that_comes_with_a_model_is_named_and_never_asked_about(tmp_path: Path) -> None:
    folder = packed.save("llama", tmp_path / "own")
    config = (folder / "config.json").read_text(encoding="utf-8")
    config = config.replace('"model_type": "llama"', '"model_type": "unheard_of"')
    own = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},'
    (folder / "config.json").write_text(config.replace("{", own, 1), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"give trust_remote_code .* to run it") as caught:
        load(resolve(str(folder)))
    assert "\n" not in str(caught.value)
