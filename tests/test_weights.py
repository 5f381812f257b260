"""Weights as people have them: packed, offloaded or both. Each runs, is edited, and can be read."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

import packed_models as packed
from conftest import tiny_model
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.devices.memory import input_device
from excise.edits.adapter import adapter_tensors, edit_changes, loaded_weights
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.weights import dense, post_norm_gains, row_norms, stored_bytes
from excise.system.quiet import quiet_libraries

quiet_libraries()


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
    packed.require(quantization)
    packed.save("llama", folder)
    loaded = load(resolve(str(folder)), LoadOptions(quantization=quantization, dtypes=("float32",)))  # type: ignore[arg-type]
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
        logits = case.model(packed.IDS.to(input_device(case.model))).logits.clone()
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
        assert packed.is_plain(module) == case.plain


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
    edit = Edit("orthogonal", case.writers, r, r, only_the_first)
    changes = edit_changes(edit, anatomy.writers, loaded_weights(case.model))
    tensors = adapter_tensors(case.model, list(changes))
    a = tensors[f"base_model.model.{o_proj}.lora_A.weight"]
    torch.testing.assert_close(a, (r[0] @ weight).unsqueeze(0))


def test_norms_behind_offloaded_writers_are_read(tmp_path: Path) -> None:
    whole = tiny_model("gemma2, post-norms and sliding window")
    anatomy = examine(whole)
    expected = post_norm_gains(whole, anatomy.writers, anatomy.dimension)
    disk_offload(whole, tmp_path, torch.device("cpu"))
    assert whole.device.type == "meta"
    assert torch.equal(post_norm_gains(whole, anatomy.writers, anatomy.dimension), expected)


def test_4_bit_weights_are_read_before_and_after_the_first_forward(tmp_path: Path) -> None:
    """Some processors have a layout of their own, which the first forward makes."""
    packed.require("bnb_4bit")
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
        model(packed.IDS)
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
    assert not packed.is_plain(layer)
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
    assert not packed.is_plain(layer)
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
