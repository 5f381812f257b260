"""Weights as people have them: quantised while loading, stored quantised, offloaded to host or disk."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from conftest import fill, tiny_model, tiny_tokenizer, write_prompts
from excise.cli.main import main
from excise.edit.adapter import save_adapter
from excise.edit.bake import bake
from excise.edit.layout import checkpoint_layout
from excise.edit.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.errors import ModelError
from excise.model.coverage import measure, random_edit
from excise.model.load import LoadedModel, load
from excise.model.placement import Placement
from excise.model.source import resolve
from excise.model.weights import dense, stored_bytes
from excise.model.writers import Anatomy, examine

TOKENS = [5, 9, 12, 40, 7, 33]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama wide enough for blocks of 64 quantised numbers."""
    folder = tmp_path_factory.mktemp("weights") / "original"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        eos_token_id=1,
        pad_token_id=1,
        bos_token_id=None,
    )
    fill(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def loaded(folder: Path, quantisation: str, dtype: str) -> LoadedModel:
    placement = Placement("cpu", quantisation)  # type: ignore[arg-type]
    return load(resolve(str(folder)), dtypes=(dtype,), placement=placement)


def require_editable(model: PreTrainedModel) -> Anatomy:
    """Coverage is whole, an edit takes the direction out of every writer, and leaving restores all bits."""
    anatomy = examine(model)
    measure(model, anatomy, TOKENS).require_complete()
    ids = torch.tensor([TOKENS])
    r = torch.nn.functional.normalize(torch.randn(anatomy.dimension), dim=0)
    edit = random_edit(anatomy, torch.ones(len(anatomy.names), anatomy.dimension), r)
    with torch.inference_mode():
        before = model(ids).logits.clone()
        with VirtualEdits(model, anatomy.names) as edits:
            edits.use(edit)
            outputs: list[torch.Tensor] = []
            module = model.get_submodule(anatomy.names[1])
            handle = module.register_forward_hook(lambda *args: outputs.append(args[2]))
            edited = model(ids).logits
            handle.remove()
        assert torch.equal(model(ids).logits, before)
    assert not torch.allclose(edited, before, atol=1e-3)
    share = (outputs[0].float() @ r).norm() / outputs[0].float().norm()
    assert share < 4 * torch.finfo(outputs[0].dtype).eps
    return anatomy


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("quantisation", "package", "dtype", "off"),
    [
        ("bnb_4bit", "bitsandbytes", "float32", 0.2),
        ("bnb_4bit", "bitsandbytes", "bfloat16", 0.2),
        ("bnb_8bit", "bitsandbytes", "float16", 0.02),
        ("int8", "torchao", "float32", 0.02),
        ("int8", "torchao", "bfloat16", 0.02),
    ],
)
def test_quantised_while_loading(
    original: Path, quantisation: str, package: str, dtype: str, off: float, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    one = loaded(original, quantisation, dtype)
    model = one.model
    assert one.bytes < 0.5 * stored_bytes(tiny_original(original).parameters())
    anatomy = require_editable(model)

    writer = anatomy.writers[1]
    stored = tiny_original(original).get_parameter(writer.tensors[0].name)
    matrix = dense(model.get_submodule(writer.name), "weight")
    assert (matrix - stored).abs().max() < off * stored.abs().max()
    # What the layer makes of a vector is what the dense matrix makes of it, to the layer's arithmetic.
    vector = torch.randn(1, 128)
    made = model.get_submodule(writer.name)(vector.to(model.dtype)).float()
    torch.testing.assert_close(made, vector @ matrix.T, atol=0.1, rtol=0.05)

    # What is saved is the original checkpoint, edited, not what is in memory.
    r = torch.nn.functional.normalize(torch.randn(64), dim=0)
    edit = random_edit(anatomy, torch.ones(len(anatomy.names), 64), r)
    bake(edit, checkpoint_layout(model, anatomy), original, tmp_path / "baked", {})
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    expected = stored - torch.outer(r, r @ stored)
    torch.testing.assert_close(baked.get_parameter(writer.tensors[0].name), expected)
    save_adapter(edit, model, anatomy.writers, "base", tmp_path / "adapter", "")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    torch.testing.assert_close(
        adapter[f"base_model.model.{writer.name}.lora_A.weight"][0],
        r @ matrix,
        atol=1e-4,
        rtol=1e-4,
    )


def tiny_original(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


def test_a_package_that_is_missing_is_named(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.model.quantise.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package torchao: pip install 'excise\[quan"):
        loaded(original, "int8", "float32")


@pytest.mark.parametrize("offload", ["host", "disk"])
def test_offloaded_by_accelerate(offload: str, tmp_path: Path) -> None:
    plain, model = tiny_model("llama with biases"), tiny_model("llama with biases")
    prompts = [TOKENS, TOKENS[:3], TOKENS[2:]]
    answers = greedy(plain, prompts, max_new_tokens=5, slots=2)
    if offload == "host":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path / "offload"), execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    anatomy = require_editable(model)
    assert greedy(model, prompts, max_new_tokens=5, slots=2) == answers
    for name in ("weight", "bias"):
        owner = anatomy.names[1]
        numbers = dense(model.get_submodule(owner), name)
        assert torch.equal(numbers, plain.get_submodule(owner).get_parameter(name))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_partly_offloaded_to_disk_by_a_memory_limit(original: Path, tmp_path: Path) -> None:
    placement = Placement(max_memory=("cpu=300KB",), offload_folder=tmp_path / "offload")
    model = load(resolve(str(original)), dtypes=("float32",), placement=placement).model
    assert "meta" in {parameter.device.type for parameter in model.parameters()}
    require_editable(model)


def packed(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """MXFP4 (OCP Microscaling Formats 1.0): 4-bit floats in blocks of 32 with one exponent each."""
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    blocks = values.unflatten(-1, (-1, 32))
    exponent = (blocks.abs().amax(-1, keepdim=True) / 6).clamp_min(1e-12).log2().ceil()
    scaled = blocks / 2**exponent
    codes = (scaled.abs().unsqueeze(-1) - levels).abs().argmin(-1) + 8 * (scaled < 0)
    pairs = codes.unflatten(-1, (16, 2))
    scales = (exponent.squeeze(-1) + 127).to(torch.uint8)
    return (pairs[..., 0] + 16 * pairs[..., 1]).to(torch.uint8), scales


def test_mxfp4_experts_of_gpt_oss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_oss",
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=96,
        eos_token_id=1,
        pad_token_id=1,
    )
    plain = AutoModelForCausalLM.from_config(config)
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if re.search(r"experts\.(gate_up|down)_proj$", name)]:
        blocks, scales = packed(tensors.pop(name).transpose(1, 2))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    (tmp_path / "config.json").write_text(json.dumps(stored))

    source = resolve(str(tmp_path))
    assert source.stored_quantised == "mxfp4"
    model = load(source, dtypes=("bfloat16",)).model
    anatomy = require_editable(model)
    assert anatomy.matrices() == {"attn.o_proj": 2, "mlp.down_proj": 8}
    experts = "model.layers.0.mlp.experts"
    numbers = dense(model.get_submodule(experts), "down_proj")
    difference = (numbers - plain.get_submodule(experts).down_proj).abs().max()
    assert difference < 0.2 * plain.get_submodule(experts).down_proj.abs().max()


def test_a_stored_form_that_cannot_be_rewritten_is_told_before_the_search(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stored"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    written = write_prompts(tmp_path / "prompts")
    prompts = [f"--{name.replace('_', '-')}={path}" for name, path in written.items()]
    arguments = [str(folder), *prompts, "--yes", "--save", str(tmp_path / "out")]
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "is stored as fp8, which cannot be rewritten in place; save an adapter instead" in told


@pytest.mark.parametrize("limit", ["8GiB", "cpu=8", "gpu=8GiB", "cpu=lots"])
def test_memory_limits_that_say_nothing(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing", f"--max-memory={limit}"]) == 2
    assert f"{limit}: say DEVICE=SIZE" in " ".join(capsys.readouterr().err.split())
