"""`excise apply` on GGUF files: same metadata, same types, and transformers reads the edited model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, PreTrainedModel

import packed_models as packed
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.matrices import removed
from excise.edits.virtual import VirtualEdits
from excise.rewrite.packing.gguf_blocks import GgufBlocks, written_as
from sweep import random_edit

pytest_plugins = ["cli_support"]

TYPES = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0)


def loaded(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval().requires_grad_(False)


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {one.name: one for one in gguf.GGUFReader(path).tensors}


def save_edit(edit: Edit, path: Path, to: Path) -> Path:
    base = Base.of(resolve(str(path)))
    Edit(edit.kind, edit.writers, edit.u, edit.v, edit.strengths, base=base).save(to)
    return to


def applied(path: Path, edit: Edit) -> Path:
    out = path.with_name("out.gguf")
    edit_path = save_edit(edit, path, path.with_name("edit.safetensors"))
    assert main(["apply", str(edit_path), str(path), str(out)]) == 0
    assert not [one for one in path.parent.iterdir() if one.name.endswith(".partial")]
    return out


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_types_and_metadata_stay_and_the_edit_survives(kind: Kind, elsewhere: Path) -> None:
    path = elsewhere / "model.gguf"
    packed.write_gguf(path, kind)
    model = loaded(path)
    edit = random_edit(examine(model))
    out = applied(path, edit)
    before, after = tensors(path), tensors(out)
    first = min(one.data_offset for one in before.values())
    assert out.read_bytes()[:first] == path.read_bytes()[:first]
    assert list(before) == list(after)
    edited = loaded(out)
    for name, one in before.items():
        assert after[name].tensor_type == one.tensor_type
        if not name.endswith(("attn_output.weight", "ffn_down.weight")):
            assert np.array_equal(after[name].data, one.data), name
    wanted_sum = got_sum = 0.0
    for index, name in enumerate(edit.writers):
        old = model.get_submodule(name).weight
        new = edited.get_submodule(name).weight
        wanted = removed(old, edit.u[index], edit.v[index], float(edit.strengths[index])) - old
        wanted_sum += float(wanted.square().sum())
        got_sum += float((wanted * (new - old)).sum())
    assert got_sum / wanted_sum == pytest.approx(1, abs=0.08)
    if kind in (Kind.F32, Kind.F16, Kind.BF16):
        with torch.inference_mode(), VirtualEdits(model, edit.writers) as edits:
            edits.use(edit)
            virtual = model(packed.IDS).logits
        tolerance = {Kind.F32: 1e-4, Kind.F16: 2e-3, Kind.BF16: 2e-2}[kind]
        with torch.inference_mode():
            logits = edited(packed.IDS).logits
        torch.testing.assert_close(
            logits, virtual, atol=tolerance * float(virtual.abs().max()), rtol=0
        )


def test_experts_in_one_tensor(elsewhere: Path) -> None:
    path = elsewhere / "model.gguf"
    packed.write_gguf(path, Kind.F32, moe=True)
    model = loaded(path)
    edit = random_edit(examine(model))
    assert any(name.endswith("experts") for name in edit.changed)
    edited = loaded(applied(path, edit))
    with torch.inference_mode(), VirtualEdits(model, edit.writers) as edits:
        edits.use(edit)
        virtual = model(packed.IDS).logits
        torch.testing.assert_close(edited(packed.IDS).logits, virtual, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [*TYPES[3:], Kind.MXFP4], ids=lambda kind: kind.name)
def test_blocks_are_packed_as_the_package_unpacks_them(kind: Kind) -> None:
    """The slow reference: numbers on the grid come back bit for bit, others within a step of theirs."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.from_numpy(
        gguf.quants.quantize(torch.randn(64, 96, generator=generator).numpy(), kind)
    )
    blocks = GgufBlocks(kind)
    values = blocks.decode(codes, {})
    assert torch.equal(blocks.encode(values.clone(), codes, {}, generator), codes)
    moved = values + 0.01 * torch.randn(values.shape, generator=generator)
    again = blocks.decode(blocks.encode(moved.clone(), codes, {}, generator), {})
    steps = values.view(64, -1, 32).abs().amax(-1, keepdim=True) / (2 if kind is Kind.MXFP4 else 6)
    assert bool(((again - moved).view(64, -1, 32).abs() <= steps.clamp_min(0.02)).all())
    change = moved - values
    share = float((change * (again - values)).sum() / change.square().sum())
    assert share == pytest.approx(1, abs=0.5)  # few numbers, coarse steps


def test_types_that_cannot_be_written_become_the_nearest_larger_one(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [
        written_as(kind, 256).name
        for kind in (Kind.Q2_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS, Kind.MXFP4)
    ] == ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q4_0", "MXFP4"]
    plain = elsewhere / "plain.gguf"
    packed.write_gguf(plain, Kind.F32, intermediate=256)
    path = elsewhere / "model.gguf"
    with_six_bits(plain, path)
    model = loaded(path)
    edit = random_edit(examine(model))
    out = applied(path, edit)
    shown = capsys.readouterr().out
    assert "Q6_K cannot be written: 1 tensors become Q8_0, the nearest larger type" in shown
    before, after = tensors(path), tensors(out)
    assert after["blk.1.ffn_down.weight"].tensor_type is Kind.Q8_0
    for name in before:
        if not name.endswith(("attn_output.weight", "ffn_down.weight")):
            assert np.array_equal(after[name].data, before[name].data), name
    keys = gguf.GGUFReader(path).fields.keys()
    assert gguf.GGUFReader(out).fields.keys() == keys
    edited = loaded(out)
    name = "model.layers.1.mlp.down_proj"
    index = edit.writers.index(name)
    old, new = (one.get_submodule(name).weight for one in (model, edited))
    wanted = removed(old, edit.u[index], edit.v[index], float(edit.strengths[index]))
    assert float((new - wanted).abs().max()) <= float(wanted.abs().max()) / 100


def with_six_bits(plain: Path, path: Path) -> None:
    """The same file with one writer in Q6_K, made of random codes: the package cannot pack that type."""
    reader = gguf.GGUFReader(plain)
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    generator = np.random.default_rng(0)
    for one in reader.tensors:
        if one.name != "blk.1.ffn_down.weight":
            writer.add_tensor(one.name, one.data)
            continue
        # One block a row: 256 numbers, with the scale of them all behind.
        blocks = generator.integers(0, 256, (64, 210), dtype=np.uint8)
        blocks[:, 208:] = np.float16(0.001).reshape(1).view(np.uint8)
        writer.add_tensor(one.name, blocks, raw_dtype=Kind.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_goes_wrong_with_gguf_files_is_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = elsewhere / "model.gguf"
    packed.write_gguf(path)
    edit = save_edit(random_edit(examine(loaded(path))), path, elsewhere / "edit.safetensors")

    def said(*words: str) -> str:
        capsys.readouterr()
        assert main(["apply", str(edit), *words]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "needs a name that ends in .gguf" in said(str(path), "out")
    assert "--packed: " in said(str(path), "out.gguf", "--packed", "plain")
    (elsewhere / "there.gguf").write_bytes(b"mine")
    assert "already exists" in said(str(path), "there.gguf")
    assert (elsewhere / "there.gguf").read_bytes() == b"mine"
    data = path.read_bytes()
    (elsewhere / "cut.gguf").write_bytes(data[:-1000])
    assert "damaged GGUF file" in said("cut.gguf", "out.gguf", "--force")
    (elsewhere / "other.gguf").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is not the checkpoint that the edit was made for" in said("other.gguf", "out.gguf")
    folder = packed.save("llama", elsewhere / "folder")
    assert "only a GGUF file becomes a GGUF file" in said(str(folder), "out.gguf", "--force")
    assert not (elsewhere / "out.gguf").exists()
