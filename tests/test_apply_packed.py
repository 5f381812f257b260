"""`excise apply` on packed checkpoints: the edit survives, scales stay, and plain writers load as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import packed_models as packed
from cli_helpers import Script
from conftest import tiny_tokenizer, write_edited
from excise.anatomy.writers import examine
from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.source import resolve
from excise.cli.apply_command import apply
from excise.cli.main import main
from excise.config import Inputs
from excise.edits.edit import Edit
from excise.edits.matrices import removed
from excise.errors import ModelError, SaveError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.weights import dense
from excise.rewrite.packing.formats import FLOAT8_LEVELS, Float8
from excise.rewrite.packing.rounding import to_integers, to_levels
from excise.system.quiet import quiet_libraries
from sweep import random_edit
from test_apply import save_edit

pytest_plugins = ["cli_support"]
quiet_libraries()

FORMATS = ("bnb_4bit", "bnb_8bit", "fp8", "fp8 experts", "fp8 rows", "mxfp4")


def make(form: str, folder: Path) -> Path:
    """A tiny checkpoint in this form."""
    if form == "fp8":
        packed.write_fp8("llama", folder)
    elif form == "fp8 experts":
        packed.write_fp8("qwen3_moe", folder)
    elif form == "mxfp4":
        packed.write_mxfp4(folder)
    elif form == "fp8 rows":
        packed.save("llama", folder)
        tensors = load_file(folder / "model.safetensors")
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            scale = tensors[name].abs().amax(1, keepdim=True) / 448
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        packed.mark(
            folder,
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "ignore": ["lm_head"],
            },
        )
    else:
        packed.require(form)
        plain = packed.save("llama", folder.parent / "plain")
        first = load(resolve(str(plain)), LoadOptions(quantization=form, dtypes=("bfloat16",)))  # type: ignore[arg-type]
        first.model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def edit_of(folder: Path) -> Edit:
    form = {"mxfp4": "gpt_oss", "fp8 experts": "qwen3_moe"}.get(folder.name, "llama")
    return random_edit(examine(packed.plain_model(form)))


@pytest.mark.parametrize("form", FORMATS)
def test_packed_the_same_way_the_edit_survives_and_scales_stay(form: str, tmp_path: Path) -> None:
    folder = make(form, tmp_path / form)
    edit = edit_of(folder)
    kept = write_edited(edit, folder, tmp_path / "out")
    assert kept.share == pytest.approx(1, abs=0.15)
    assert kept.numbers > 4096
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {
        name
        for name in before
        if not torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
    }
    assert not [name for name in changed if "scale" in name or "absmax" in name or "SCB" in name]
    assert changed
    assert all(name.startswith(edit.changed) for name in changed)


def test_blocks_that_are_as_many_as_rows_are_blocks() -> None:
    """So they are in DeepSeek-V3's attention outputs: [7168, 16384] in blocks of 128 × 128."""
    codes = torch.ones(6, 4).to(torch.float8_e4m3fn)
    scale = torch.arange(1.0, 7.0).reshape(3, 2)
    wanted = scale.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(Float8((2, 2)).decode(codes, {"scale": scale}), wanted)


@pytest.mark.parametrize(
    ("form", "part", "damage"),
    [
        ("fp8", "weight_scale_inv", torch.ones(3, 5)),
        ("mxfp4", "down_proj_scales", torch.ones(2, 3, 2, dtype=torch.uint8)),
        ("bnb_4bit", "weight.quant_state.bitsandbytes__nf4", torch.zeros(9, dtype=torch.uint8)),
        ("bnb_8bit", "SCB", torch.ones(3)),
    ],
)
def test_scales_that_do_not_fit_are_progress(
    form: str, part: str, damage: torch.Tensor, tmp_path: Path
) -> None:
    folder = make(form, tmp_path / form)
    edit = edit_of(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    damaged = [
        name for name in tensors if name.startswith(edit.changed) and name.endswith(f".{part}")
    ]
    assert damaged
    save_file(tensors | {name: damage.clone() for name in damaged}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.safetensors: .* cannot be unpacked"):
        write_edited(edit, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["bnb_4bit", "bnb_8bit", "fp8", "mxfp4"])
def test_what_is_written_means_to_others_what_it_means_to_us(form: str, tmp_path: Path) -> None:
    """Read by transformers, or bitsandbytes: each writer is W − α u (vᵀ W) within its steps."""
    folder = make(form, tmp_path / form)
    edit = edit_of(folder)
    write_edited(edit, folder, tmp_path / "out")
    loaded = [
        load(resolve(str(one)), LoadOptions(dtypes=("float32",))).model
        for one in (folder, tmp_path / "out")
    ]
    for index, name in enumerate(edit.writers):
        if not edit.strengths[index]:
            continue
        part = "down_proj" if name.endswith("experts") else "weight"
        old, new = (dense(model.get_submodule(name), part) for model in loaded)
        if part == "down_proj":
            old, new = old[0].T, new[0].T
        wanted = removed(old, edit.u[index], edit.v[index], float(edit.strengths[index]))
        change = wanted - old
        share = float((change * (new - old)).sum() / change.square().sum())
        assert share == pytest.approx(1, abs=0.35), name
        assert float((new - wanted).abs().max()) <= 0.6 * float(old.abs().max())


def test_without_dice_rounding_would_take_the_edit_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why rounding is stochastic: on a grid of 4 bits small changes vanish, all of them."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.randint(-7, 8, (512, 512), generator=generator).to(torch.float32)
    change = 0.1 * torch.randn(512, 512, generator=generator)
    levels = torch.arange(-8.0, 8.0)

    def shares() -> list[float]:
        moved = [
            to_integers(grid + change, -8, 7, generator).to(torch.float32),
            levels[to_levels(grid + change, levels, generator).long()],
        ]
        return [float((change * (one - grid)).sum() / change.square().sum()) for one in moved]

    assert shares() == pytest.approx([1, 1], abs=0.05)
    # Dice that always fall in the middle: to the nearest.
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.full(shape, 0.5))
    assert shares() == pytest.approx([0, 0], abs=0.01)


def test_rounding_is_right_in_the_mean_and_never_by_more_than_a_step() -> None:
    generator = torch.Generator().manual_seed(0)
    finite = FLOAT8_LEVELS[torch.float8_e4m3fn]
    levels = finite[finite.isfinite()].unique()
    values = torch.rand(100_000, generator=generator) * 3
    found = levels[to_levels(values, levels, generator).long()]
    assert float((found - values).mean()) == pytest.approx(0, abs=2e-3)
    assert float((found - values).abs().max()) <= 0.25  # the step between 2 and 4


@pytest.mark.parametrize("form", ["bnb_4bit", "bnb_8bit", "fp8"])
def test_plain_writers_load_as_such(form: str, tmp_path: Path) -> None:
    folder = make(form, tmp_path / form)
    edit = edit_of(folder)
    write_edited(edit, folder, tmp_path / "out", form="plain")
    # In the data type of the checkpoint: transformers casts nothing beside packed weights.
    original, edited = (
        load(resolve(str(one)), LoadOptions(dtypes=("auto",))).model
        for one in (folder, tmp_path / "out")
    )
    for index, name in enumerate(edit.writers):
        strength = float(edit.strengths[index])
        module = edited.get_submodule(name)
        old = dense(original.get_submodule(name), "weight")
        new = dense(module, "weight")
        if strength:
            assert packed.is_plain(module), name
            wanted = removed(old, edit.u[index], edit.v[index], strength)
            torch.testing.assert_close(new, wanted, atol=2e-2, rtol=1e-2)
    assert (
        not packed.is_plain(edited.get_submodule("model.layers.0.self_attn.q_proj"))
        or form == "fp8"
    )
    names = open_checkpoint(tmp_path / "out").tensors
    assert not [
        name
        for name in names
        if name.startswith(f"{edit.writers[-1]}.weight") and "." in name.partition(".weight")[2]
    ]


def test_the_choice_is_shown_with_its_size_before_it_is_made(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("fp8", elsewhere / "fp8")
    edit = save_edit(edit_of(folder), folder, elsewhere / "edit.safetensors")
    assert main(["apply", str(edit), str(folder), "out"]) == 0
    shown = capsys.readouterr().out
    assert "writers are stored as FP8. --packed: plain " in shown
    assert shown.index("--packed:") < shown.index("Writing the edited model")
    assert "of the edit remains after packing" in shown
    assert main(["apply", str(edit), str(folder), "plain", "--packed", "plain"]) == 0
    capsys.readouterr()
    config = json.loads((elsewhere / "plain" / "config.json").read_text())
    assert "model.layers.1.mlp.down_proj" in config["quantization_config"]["modules_to_not_convert"]


def test_what_is_asked_may_be_answered_by_the_end_of_input_or_the_environment(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("fp8", elsewhere / "fp8")
    edit = save_edit(edit_of(folder), folder, elsewhere / "edit.safetensors")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    words, ended = (str(edit), str(folder), "out"), Script()
    assert apply(words, Inputs(), force=False, ask=ended) == 0
    assert len(ended.questions) == 1
    same = (elsewhere / "out" / "model.safetensors").stat().st_size

    unasked = Script()
    (elsewhere / "toml").mkdir()
    monkeypatch.chdir(elsewhere / "toml")
    assert apply(words, Inputs({}, {"EXCISE_PACKED": "plain"}), force=False, ask=unasked) == 0
    (elsewhere / "toml" / "excise.toml").write_text('packed = "plain"')
    assert apply((*words[:2], "again"), Inputs(), force=False, ask=unasked) == 0
    assert apply((*words[:2], "json"), Inputs({"json_lines": True}), force=False, ask=unasked) == 0
    assert unasked.questions == []
    for out in ("out", "again"):
        assert (elsewhere / "toml" / out / "model.safetensors").stat().st_size > same


def test_forms_that_cannot_be_written_point_to_the_adapter(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = packed.save("llama", elsewhere / "plain")
    edit = edit_of(plain)
    for method in ("torchao", "eetq"):
        folder = packed.marked(plain, elsewhere / method, {"quant_method": method, "bits": 4})
        with pytest.raises(SaveError, match="cannot be rewritten; save an adapter") as caught:
            write_edited(edit, folder, elsewhere / "out")
        assert "\n" not in str(caught.value)
    mxfp4 = make("mxfp4", elsewhere / "mxfp4")
    with pytest.raises(SaveError, match="cannot become plain"):
        write_edited(edit_of(mxfp4), mxfp4, elsewhere / "out", form="plain")


def test_transformers_reads_the_plain_form_of_fp8(tmp_path: Path) -> None:
    folder = make("fp8", tmp_path / "fp8")
    write_edited(edit_of(folder), folder, tmp_path / "out", form="plain")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.isfinite(model(packed.IDS).logits).all()
