"""Integers in words: variants of the formats, grids at the edges, and input that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

import packed_models as packed
import word_formats as words
from conftest import write_edited
from excise.anatomy.writers import examine
from excise.edits.matrices import removed
from excise.errors import SaveError
from excise.rewrite.packing.grouped import GroupedIntegers
from excise.rewrite.packing.packed_integers import PackedIntegers
from excise.system.quiet import quiet_libraries
from sweep import random_edit
from word_formats import FORMS, Form, edit_of, kept_in

quiet_libraries()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return kept_in(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_integers_in_words(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    numbers = torch.randint(0, 1 << bits, (96, 5), generator=generator)
    expected = torch.tensor([words.to_words(one, bits) for one in numbers.T.tolist()]).T
    packed_ = PackedIntegers(bits).pack(numbers.to(torch.int16))
    assert packed_.dtype == torch.int32
    torch.testing.assert_close(packed_.long(), expected)
    torch.testing.assert_close(PackedIntegers(bits).unpack(packed_), numbers.float())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_grids_at_the_edges(symmetric: bool, offset: int) -> None:
    """Zeros, one sign, a negative scale, numbers far beyond: each group keeps its grid or gets one."""
    packing = GroupedIntegers(
        "GPTQ", 64, 32, PackedIntegers(4), offset=offset, symmetric=symmetric, transposed=False
    )
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(1, 15, (64, 32), generator=generator)
    integers[:, 0] = 8  # Where there is no step, all lie on the zero point.
    codes = PackedIntegers(4).pack(integers)
    scale = torch.full((2, 32), 0.125, dtype=torch.float16)
    scale[:, 0] = 0
    scale[:, 1] = -0.125
    scales = {
        "scale": scale,
        "zero": PackedIntegers(4).pack(torch.full((32, 2), 8 - offset)).T.contiguous(),
    }
    values = packing.decode(codes, scales)
    assert not values[:, 0].any()
    kept = {name: one.clone() for name, one in scales.items()}
    assert torch.equal(packing.encode(values.clone(), codes, kept, generator), codes)
    assert all(torch.equal(one, scales[name]) for name, one in kept.items())
    moved = values.clone()
    moved[:32, 0] = torch.randn(32, generator=generator)
    moved[:32, 1] *= 3
    moved[:32, 2] = moved[:32, 2].abs() + 5
    moved[:32, 3] = -moved[:32, 3].abs() - 5
    moved[:32, 4] = 1e-7 * torch.randn(32, generator=generator)
    new = {name: one.clone() for name, one in scales.items()}
    again = packing.decode(packing.encode(moved.clone(), codes, new, generator), new)
    step = new["scale"].float().abs().repeat_interleave(32, 0)
    assert bool(((again - moved).abs() <= 1.001 * step).all())
    changed = new["scale"] != scale
    assert changed[0, :4].all()
    assert int(changed.sum()) == 4
    # The least that does: one sign alone needs half the range where the zero point may move.
    assert float(new["scale"][0, 2]) <= float(moved[:32, 2].max()) / (7 if symmetric else 14) * 1.01


def test_conv1d_stores_its_weight_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2's layers hold [input, output] where they are plain, and the same as any other where packed."""
    torch.manual_seed(0)
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64}
    model = AutoModelForCausalLM.from_config(GPT2Config(**shape, n_inner=128))
    model.save_pretrained(tmp_path / "gpt2")
    form = FORMS["gptq"]
    tensors = load_file(tmp_path / "gpt2" / "model.safetensors")
    for name in [one for one in tensors if one.endswith(".c_proj.weight")]:
        module = name.removesuffix(".weight")
        parts = words.pack(form, tensors.pop(name).T, 0)
        tensors |= {f"{module}.{part}": one for part, one in parts.items()}
    save_file(tensors, tmp_path / "gpt2" / "model.safetensors", {"format": "pt"})
    packed.mark(tmp_path / "gpt2", form.config)
    edit = random_edit(examine(model))
    write_edited(edit, tmp_path / "gpt2", tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for index, module in enumerate(edit.writers):
        old, new = (words.unpack(form, one, module) for one in (tensors, after))
        wanted = removed(old.weight, edit.u[index], edit.v[index], float(edit.strengths[index]))
        assert bool(((new.weight - wanted).abs() <= 1.001 * new.step).all()), module
    assert not torch.equal(after[f"{module}.qweight"], tensors[f"{module}.qweight"])


def test_overrides_of_single_modules(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: other bits for one layer, another one left plain."""
    form = FORMS["gptq"]
    folder = tmp_path / "dynamic"
    shutil.copytree(checkpoints("gptq"), folder)
    tensors = load_file(folder / "model.safetensors")
    plain = load_file(packed.save("llama", tmp_path / "plain") / "model.safetensors")
    wide, left = "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"
    for module in (wide, left):
        for part in form.names.values():
            del tensors[f"{module}.{part}"]
    eight = Form("gptq", bits=8, zero=1)
    parts = words.pack(eight, plain[f"{wide}.weight"], 0)
    tensors |= {f"{wide}.{part}": one for part, one in parts.items()}
    tensors[f"{left}.weight"] = plain[f"{left}.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    dynamic = {rf"-:{left}": {}, r"+:.*\.layers\.1\.mlp\.down": {"bits": 8}}
    packed.mark(folder, {**form.config, "dynamic": dynamic})
    edit = edit_of(form)
    write_edited(edit, folder, tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for module, before_weight, after_weight, atol in (
        (wide, words.unpack(eight, tensors, wide).weight, words.unpack(eight, after, wide), 0.03),
        (left, plain[f"{left}.weight"], after[f"{left}.weight"], 1e-6),
    ):
        index = edit.writers.index(module)
        wanted = removed(before_weight, edit.u[index], edit.v[index], float(edit.strengths[index]))
        found = after_weight if isinstance(after_weight, Tensor) else after_weight.weight
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=atol)


def test_bad_input_is_one_line(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    module = "model.layers.1.mlp.down_proj"

    def broken(name: str, change: Callable[[dict[str, Tensor]], None], **config: object) -> str:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(checkpoints(name), folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        packed.mark(folder, {**FORMS[name].config, **config})
        with pytest.raises(SaveError) as caught:
            write_edited(edit_of(FORMS[name]), folder, tmp_path / "out")
        assert not list(tmp_path.glob("*out*"))
        return str(caught.value)

    def without(part: str) -> Callable[[dict[str, Tensor]], None]:
        return lambda tensors: tensors.__delitem__(f"{module}.{part}")

    def put(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
        def changed(tensors: dict[str, Tensor]) -> None:
            tensors[f"{module}.{part}"] = change(tensors[f"{module}.{part}"]).contiguous()

        return changed

    def nothing(tensors: dict[str, Tensor]) -> None:
        pass

    messages = {
        "has no g_idx": broken("gptq desc_act", without("g_idx")),
        "has no qzeros": broken("gptq", without("qzeros")),
        "has no scales": broken("awq", without("scales")),
        "has no weight_scale": broken("int4", without("weight_scale")),
        "qweight: is I32 [15, 64]": broken("gptq", put("qweight", lambda one: one[1:])),
        "scales: is F16 [64, 4]": broken("gptq", put("scales", lambda one: one.T)),
        "qzeros: is I32 [4, 7]": broken("awq", put("qzeros", lambda one: one[:, 1:])),
        "qweight: is I64": broken("awq", put("qweight", lambda one: one.long())),
        "g_idx: is I32 [127]": broken("gptq", put("g_idx", lambda one: one[1:])),
        "a group that has no scale": broken("gptq desc_act", put("g_idx", lambda one: one + 1)),
        "1 of 4 groups have no inputs": broken(
            "gptq desc_act", put("g_idx", lambda one: one.clamp_min(1))
        ),
        "reorders inputs although desc_act is off": broken(
            "gptq", put("g_idx", lambda one: one.flip(0))
        ),
        "weight_packed I32 [64, 12]": broken("int4", put("weight_packed", lambda one: one[:, :12])),
        "weight_zero_point I8": broken(
            "int4 zero points, reordered", put("weight_zero_point", lambda one: one.to(torch.int8))
        ),
        "zero points of 0": broken("gptq", put("qzeros", lambda one: one | 15)),
    }
    for words_, message in messages.items():
        assert words_ in message
        assert "\n" not in message
    unknown = {
        "the variant marlin": broken("gptq", nothing, checkpoint_format="marlin"),
        "the variant gemv": broken("awq", nothing, version="gemv"),
        "the variant gemv_fast": broken("awq", nothing, version="GEMV_fast"),
        "the variant marlin-24": broken("int4", nothing, format="marlin-24"),
        "with 5 bits": broken("gptq", nothing, bits=5),
        "with 8 bits": broken("awq", nothing, bits=8),
        "3 groups of 128 inputs, the last one smaller": broken(
            "int4", put("weight_scale", lambda one: one[:, :3])
        ),
        "one scale for a whole matrix": broken(
            "int4", put("weight_scale", lambda one: one[:1, :1])
        ),
    }
    for words_, message in {**unknown, "zero points": messages["zero points of 0"]}.items():
        assert words_ in message
        assert "save an adapter instead: to_peft (excise export RUN --adapter DIR)" in message


@pytest.mark.parametrize("how", ["left out", "empty"])
def test_g_idx_counts_for_nothing_without_desc_act(
    how: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "plainly"
    shutil.copytree(checkpoints("gptq"), folder)
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name: torch.zeros_like(one) if name.endswith(".g_idx") else one
        for name, one in tensors.items()
        if how == "empty" or not name.endswith(".g_idx")
    }
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    edit = edit_of(FORMS["gptq"])
    write_edited(edit, folder, tmp_path / "without")
    write_edited(edit, checkpoints("gptq"), tmp_path / "with")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("without", "with"))
    assert all(
        torch.equal(tensor, other[name])
        for name, tensor in one.items()
        if not name.endswith(".g_idx")
    )


def test_the_form_of_words_for_each_loader(checkpoints: Callable[[str], Path]) -> None:
    """What vLLM's and GPTQModel's readers expect of types and shapes, on one matrix of each form."""
    for name, expected in {
        "gptq": {"qweight": (16, 64), "qzeros": (4, 8), "scales": (4, 64), "g_idx": (128,)},
        "gptq 3 bits": {"qweight": (12, 64), "qzeros": (4, 6)},
        "awq": {"qweight": (128, 8), "qzeros": (4, 8), "scales": (4, 64)},
        "int4": {"weight_packed": (64, 16), "weight_scale": (64, 4), "weight_shape": (2,)},
        "int4 zero points, reordered": {"weight_zero_point": (8, 4), "weight_g_idx": (128,)},
    }.items():
        tensors = load_file(checkpoints(name) / "model.safetensors")
        for part, shape in expected.items():
            assert tuple(tensors[f"model.layers.1.mlp.down_proj.{part}"].shape) == shape
