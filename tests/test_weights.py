"""Weights as people have them: packed, offloaded or both. Each runs, is edited, and can be read."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

import packed_models as packed
from conftest import tiny_model, write_prompts
from excise.cli.main import main
from excise.edit.adapter import adapter_tensors
from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.engine.device import input_device
from excise.errors import ModelError, SaveError
from excise.model.gains import post_norm_gains, row_norms
from excise.model.load import load
from excise.model.source import resolve
from excise.model.weights import dense, is_plain, stored_bytes
from excise.model.writers import examine
from excise.quiet import quiet_libraries
from excise.run.export import require_rewritable

quiet_libraries()

IDS = torch.tensor([[7, 5, 6, 20, 31], [9, 9, 40, 3, 8]])
PACKAGES = {
    "bnb_4bit": "bitsandbytes",
    "bnb_8bit": "bitsandbytes",
    "int8": "torchao",
    "int4": "torchao",
}


@dataclass(frozen=True)
class Case:
    """A model, its writers, and what their matrices are, unpacked by other means than ours.

    error: largest difference allowed, relative to the largest number of the matrix.
    """

    model: PreTrainedModel
    writers: tuple[str, ...]
    reference: dict[str, Tensor]
    plain: bool
    error: float = 0.0


def _references(kind: str) -> dict[str, Tensor]:
    model = packed.plain_model(kind)
    return {
        name: model.get_parameter(f"{name}.{_weight(name)}") for name in packed.writer_names(kind)
    }


def _weight(writer: str) -> str:
    return "down_proj" if writer.endswith(".experts") else "weight"


def _offloaded(kind: str, make: Callable[[str, Path], PreTrainedModel], folder: Path) -> Case:
    model = make(kind, folder)
    return Case(model, packed.writer_names(kind), _references(kind), plain=False)


def _quantized(quantization: str, error: float, folder: Path) -> Case:
    _require(quantization)
    packed.save("llama", folder)
    loaded = load(resolve(str(folder)), quantization=quantization, dtypes=("float32",))  # type: ignore[arg-type]
    return Case(loaded.model, packed.writer_names("llama"), _references("llama"), False, error)


def _fp8(kind: str, folder: Path) -> Case:
    reference = packed.write_fp8(kind, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    writers = packed.writer_names(kind)
    return Case(
        model, writers, {name: reference[name] for name in writers if name in reference}, True
    )


def _mxfp4(folder: Path) -> Case:
    reference = packed.write_mxfp4(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return Case(model, packed.writer_names("gpt_oss"), reference, plain=True)


def _gguf(folder: Path) -> Case:
    reference = packed.write_gguf(folder / "model.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True)
    )
    writers = packed.writer_names("llama")
    return Case(model, writers, {name: reference[name] for name in writers}, plain=True)


CASES: dict[str, Callable[[Path], Case]] = {
    "llama offloaded to memory": lambda f: _offloaded("llama", packed.offload_to_cpu, f),
    "llama offloaded to disk": lambda f: _offloaded("llama", packed.offload_to_disk, f),
    "llama spread by a device map": lambda f: _offloaded("llama", packed.spread, f),
    "experts offloaded to memory": lambda f: _offloaded("qwen3_moe", packed.offload_to_cpu, f),
    "experts offloaded to disk": lambda f: _offloaded("gpt_oss", packed.offload_to_disk, f),
    "experts spread by a device map": lambda f: _offloaded("qwen3_moe", packed.spread, f),
    # 4 bits of a bell curve miss by up to a seventh of the largest number, 8 bits by 1/254 and rounding.
    "bitsandbytes 4-bit": lambda f: _quantized("bnb_4bit", 0.16, f),
    "bitsandbytes 8-bit": lambda f: _quantized("bnb_8bit", 0.005, f),
    "torchao int8": lambda f: _quantized("int8", 0.005, f),
    "torchao int4": lambda f: _quantized("int4", 0.08, f),
    "FP8 checkpoint": lambda f: _fp8("llama", f),
    "FP8 checkpoint of experts": lambda f: _fp8("qwen3_moe", f),
    "MXFP4 checkpoint": _mxfp4,
    "GGUF file": _gguf,
}


def _require(quantization: str) -> None:
    package = PACKAGES[quantization]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install -e '.[dev]')")


@pytest.fixture(scope="module", params=sorted(CASES))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    yield CASES[request.param](tmp_path_factory.mktemp("packed"))
    gc.collect()


@torch.inference_mode()
def _run(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and what each writer put out, after whatever edit is on."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output.detach().clone()

        return hook

    handles = [
        case.model.get_submodule(name).register_forward_hook(keep(name)) for name in case.writers
    ]
    try:
        logits = case.model(IDS.to(input_device(case.model))).logits.clone()
    finally:
        for handle in handles:
            handle.remove()
    return logits, outputs


def test_an_edit_acts_on_every_writer_and_leaves_no_trace(case: Case) -> None:
    original, before = _run(case)
    assert torch.isfinite(original).all()
    generator = torch.Generator().manual_seed(1)
    r = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    stacked = r.expand(len(case.writers), -1)
    edit = Edit("orthogonal", case.writers, stacked, stacked, torch.ones(len(case.writers)))
    with VirtualEdits(case.model, case.writers) as edits:
        edits.use(edit)
        logits, after = _run(case)
    assert not torch.allclose(logits, original, atol=1e-3)
    for output in after.values():
        assert (output.float() @ r).abs().max() < 1e-4 * output.float().norm(dim=-1).max()
    # Only the first writer still sees the inputs it saw before.
    y = before[case.writers[0]]
    expected = y - (y @ r).unsqueeze(-1) * r
    torch.testing.assert_close(after[case.writers[0]], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(_run(case)[0], original)


def test_weights_are_read_as_they_are(case: Case) -> None:
    assert case.reference
    for name, reference in case.reference.items():
        module = case.model.get_submodule(name)
        read = dense(module, _weight(name))
        assert read.dtype == torch.float32
        assert read.device.type == "cpu"
        assert read.shape == reference.shape
        assert (read - reference).abs().max() <= case.error * reference.abs().max()
        assert is_plain(module) == case.plain


def test_what_is_read_is_what_the_layer_computes_with(case: Case) -> None:
    """Not only near the original: the very numbers, with the layer's own rounding of its inputs."""
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    module = case.model.get_submodule(case.writers[0])
    with torch.inference_mode():
        expected = x @ dense(module, "weight").T
        if module.bias is not None:
            expected += dense(module, "bias")
        torch.testing.assert_close(module(x).float(), expected, atol=0.06, rtol=0.02)


def test_what_a_search_and_an_adapter_need_of_weights(case: Case) -> None:
    """Norms of rows, and the adapter's A = vᵀW, from whatever holds the weights."""
    anatomy = examine(case.model)
    assert anatomy.names == case.writers
    norms = row_norms(case.model, anatomy.writers, anatomy.dimension)
    gains = post_norm_gains(case.model, anatomy.writers, anatomy.dimension)
    assert torch.equal(gains, torch.ones_like(gains))
    o_proj = case.writers[0]
    weight = dense(case.model.get_submodule(o_proj), "weight")
    torch.testing.assert_close(norms[0], weight.norm(dim=1))
    r = torch.nn.functional.normalize(torch.ones(64), dim=0).expand(len(case.writers), -1)
    only_the_first = torch.zeros(len(case.writers))
    only_the_first[0] = 1
    tensors = adapter_tensors(
        Edit("orthogonal", case.writers, r, r, only_the_first), case.model, anatomy.writers
    )
    a = tensors[f"base_model.model.{o_proj}.lora_A.weight"]
    torch.testing.assert_close(a, (r[0] @ weight).unsqueeze(0))


def test_norms_behind_offloaded_writers_are_read(tmp_path: Path) -> None:
    whole = tiny_model("gemma2, post-norms and sliding window")
    anatomy = examine(whole)
    expected = post_norm_gains(whole, anatomy.writers, anatomy.dimension)
    disk_offload(whole, tmp_path, torch.device("cpu"))
    assert whole.device.type == "meta"
    assert torch.equal(post_norm_gains(whole, anatomy.writers, anatomy.dimension), expected)


@pytest.mark.parametrize("quantization", sorted(PACKAGES))
def test_quantised_loading(quantization: str, tmp_path: Path) -> None:
    _require(quantization)
    folder = packed.save("llama", tmp_path / "plain")
    loaded = load(resolve(str(folder)), quantization=quantization)  # type: ignore[arg-type]
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
    require_rewritable(loaded.source, loaded.quantization)


@pytest.mark.parametrize("quantization", ["bnb_4bit", "bnb_8bit", "int8"])
def test_checkpoints_that_are_packed_already_load_as_they_are(
    quantization: str, tmp_path: Path
) -> None:
    _require(quantization)
    folder = packed.save("llama", tmp_path / "plain")
    first = load(resolve(str(folder)), quantization=quantization, dtypes=("bfloat16",))  # type: ignore[arg-type]
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
    with pytest.raises(SaveError, match=r"cannot be rewritten; save an adapter instead") as caught:
        require_rewritable(source, "none")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="already; leave out --quantization"):
        load(source, quantization="bnb_4bit")


def test_checkpoints_that_are_unpacked_while_loading(tmp_path: Path) -> None:
    packed.write_mxfp4(tmp_path / "mxfp4")
    packed.write_fp8("llama", tmp_path / "fp8")
    for name, words in (("mxfp4", "MXFP4"), ("fp8", "FP8")):
        source = resolve(str(tmp_path / name))
        loaded = load(source)
        assert loaded.packing is None
        assert loaded.precision == loaded.dtype
        with pytest.raises(SaveError, match=f"is stored as {words}, which cannot be rewritten"):
            require_rewritable(source, "none")


def test_what_could_not_be_saved_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.run.prepare.load", lambda *_, **__: pytest.fail("it was loaded"))
    packed.write_mxfp4(tmp_path / "mxfp4")
    prompts = write_prompts(tmp_path / "prompts")
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in prompts.items()]
    run_dir = tmp_path / "run"
    saved = tmp_path / "saved"
    arguments = [str(tmp_path / "mxfp4"), *flags, "--yes", f"--run-dir={run_dir}"]
    assert main([*arguments, f"--save={saved}"]) == 2
    assert "is stored as MXFP4, which cannot be rewritten" in capsys.readouterr().err
    assert not saved.exists()
    assert not run_dir.exists()


def test_memory_limits_offload_and_count_the_same(tmp_path: Path) -> None:
    source = resolve(str(packed.save("llama", tmp_path / "plain")))
    whole = load(source, dtypes=("float32",))
    spread = load(
        source,
        dtypes=("float32",),
        max_memory={"cpu": 60_000},
        offload_folder=tmp_path / "offloaded",
    )
    assert spread.bytes == whole.bytes
    assert spread.attempts == ()
    assert not is_plain(spread.model)
    assert torch.equal(spread.model(IDS).logits, whole.model(IDS).logits)


@pytest.mark.parametrize("quantization", sorted(PACKAGES))
def test_packed_weights_that_do_not_fit_say_so(quantization: str, tmp_path: Path) -> None:
    _require(quantization)
    source = resolve(str(packed.save("llama", tmp_path / "plain")))
    with pytest.raises(ModelError, match="have to fit in --max-memory") as caught:
        load(
            source,
            quantization=quantization,  # type: ignore[arg-type]
            max_memory={"cpu": 20_000},
            offload_folder=tmp_path / "offloaded",
        )
    assert "\n" not in str(caught.value)


def test_a_place_for_weights_on_disk_is_asked_for(tmp_path: Path) -> None:
    source = resolve(str(packed.save("qwen3_moe", tmp_path / "plain")))
    with pytest.raises(ModelError, match="give --offload-folder DIR"):
        load(source, dtypes=("float32",), max_memory={"cpu": 60_000})


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = packed.save("llama", tmp_path / "plain")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"need the package bitsandbytes.*excise\[quantized\]"):
        load(resolve(str(plain)), quantization="bnb_4bit")
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
    with pytest.raises(ModelError, match="GGUF file, which is unpacked"):
        load(resolve(str(tmp_path / "model.gguf")), quantization="int8")


def test_code_that_comes_with_a_model_is_named_and_never_asked_about(tmp_path: Path) -> None:
    folder = packed.save("llama", tmp_path / "own")
    config = (folder / "config.json").read_text(encoding="utf-8")
    config = config.replace('"model_type": "llama"', '"model_type": "unheard_of"')
    own = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},'
    (folder / "config.json").write_text(config.replace("{", own, 1), encoding="utf-8")
    (folder / "own.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    with pytest.raises(ModelError, match="give --trust-remote-code to run it") as caught:
        load(resolve(str(folder)))
    assert "\n" not in str(caught.value)


def test_4_bit_weights_are_read_before_and_after_the_first_forward(tmp_path: Path) -> None:
    """Some processors have a layout of their own, which the first forward makes."""
    _require("bnb_4bit")
    from bitsandbytes.functional import dequantize_4bit
    from transformers import BitsAndBytesConfig

    folder = packed.save("llama", tmp_path / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.bfloat16
    ).eval()
    layer = model.get_submodule(packed.writer_names("llama")[1])
    expected = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    assert torch.equal(dense(layer, "weight"), expected)
    with torch.inference_mode():
        model(IDS)
    torch.testing.assert_close(dense(layer, "weight"), expected, atol=1e-5, rtol=2**-7)


def test_fp8_layers_are_read_where_only_an_accelerator_could_run_them() -> None:
    from transformers.integrations.finegrained_fp8 import FP8Linear

    layer = FP8Linear(96, 80, block_size=(32, 64))
    numbers = torch.randn(80, 96, generator=torch.Generator().manual_seed(0))
    layer.weight.data = numbers.to(torch.float8_e4m3fn)
    layer.weight_scale_inv.data = torch.rand(3, 2)
    expected = layer.weight.float().clone()
    for row in range(80):
        for column in range(96):
            expected[row, column] *= layer.weight_scale_inv[row // 32, column // 64]
    torch.testing.assert_close(dense(layer, "weight"), expected.detach())
    assert not is_plain(layer)
    whole = FP8Linear(8, 8)
    whole.weight.data = numbers[:8, :8].to(torch.float8_e4m3fn)
    whole.weight_scale_inv.data = torch.tensor(0.5)
    torch.testing.assert_close(dense(whole, "weight"), whole.weight.float().detach() / 2)


class _Unheard(nn.Module):
    """A linear layer that packs its weight in a way of its own, as GPTQ and AWQ do."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("qweight", (weight * 16).to(torch.int32))
        self.register_buffer("scales", torch.tensor(1 / 16))
        self.bias = nn.Parameter(torch.ones(len(weight)))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.qweight * self.scales).T + self.bias  # type: ignore[operator]


def test_a_linear_layer_of_unknown_storage_is_read_through_the_identity() -> None:
    weight = torch.randint(-40, 40, (24, 1100)) / 16
    layer = _Unheard(weight)
    layer.register_forward_hook(lambda *_: pytest.fail("an edit would have seen it"))
    assert torch.equal(dense(layer, "weight"), weight)
    assert torch.equal(dense(layer, "bias"), torch.ones(24))
    assert not is_plain(layer)
    assert stored_bytes(layer) == 4 * 24 * 1100 + 4 * 24


def test_what_cannot_be_read_is_named() -> None:
    experts = nn.Module()
    experts.down_proj = nn.Parameter(torch.zeros(2, 3, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"down_proj of a Module is stored as Parameter of uint8"):
        dense(experts, "down_proj")
    with torch.device("meta"):
        away = nn.Linear(3, 3)
    with pytest.raises(ModelError, match="on the meta device"):
        dense(away, "weight")
