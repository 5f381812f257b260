"""`excise apply` on GPTQ, AWQ and compressed-tensors in words: held against packing one integer at a time."""

from __future__ import annotations

import json
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
from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.numbers import Stored
from excise.checkpoint.packing.grouped import GroupedIntegers
from excise.checkpoint.packing.words import Words
from excise.checkpoint.plan import make_plan
from excise.checkpoint.stream import rewrite_file
from excise.checkpoint.verify import Kept, verify_file
from excise.checkpoint.write import write_checkpoint
from excise.cli.main import main
from excise.edit.edit import Edit
from excise.edit.matrices import removed
from excise.errors import SaveError
from excise.model.writers import examine
from excise.quiet import quiet_libraries
from excise.reproduce.record import Reproduction
from excise.run.reproduction import model_record
from sweep import random_edit
from test_apply import save_edit
from word_formats import FORMS, Form

pytest_plugins = ["cli_support"]
quiet_libraries()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of each form, made once. Tests must not change them."""
    root = tmp_path_factory.mktemp("words")

    def of(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else words.write(FORMS[name], folder)

    return of


def edit_of(form: Form, seed: int = 0) -> Edit:
    return random_edit(examine(packed.plain_model(form.kind)), seed)


def edited_modules(edit: Edit, tensors: dict[str, Tensor], form: Form) -> dict[str, int]:
    """Stored module → its writer's index in the edit."""
    return {
        name.removesuffix(f".{form.names['codes']}"): index
        for index, writer in enumerate(edit.writers)
        if edit.strengths[index]
        for name in tensors
        if name.startswith(f"{writer}.")
        and name.endswith(f".{form.names['codes']}")
        # Of experts, their gates are no writers.
        and "gate_proj" not in name
        and "up_proj" not in name
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_integers_in_words(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    numbers = torch.randint(0, 1 << bits, (96, 5), generator=generator)
    expected = torch.tensor([words.to_words(one, bits) for one in numbers.T.tolist()]).T
    packed_ = Words(bits).pack(numbers.to(torch.int16))
    assert packed_.dtype == torch.int32
    torch.testing.assert_close(packed_.long(), expected)
    torch.testing.assert_close(Words(bits).unpack(packed_), numbers.float())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_grids_at_the_edges(symmetric: bool, offset: int) -> None:
    """Zeros, one sign, a negative scale, numbers far beyond: each group keeps its grid or gets one."""
    packing = GroupedIntegers(
        "GPTQ", 64, 32, Words(4), offset=offset, symmetric=symmetric, transposed=False
    )
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(1, 15, (64, 32), generator=generator)
    integers[:, 0] = 8  # Where there is no step, all lie on the zero point.
    codes = Words(4).pack(integers)
    scale = torch.full((2, 32), 0.125, dtype=torch.float16)
    scale[:, 0] = 0
    scale[:, 1] = -0.125
    scales = {"scale": scale, "zero": Words(4).pack(torch.full((32, 2), 8 - offset)).T.contiguous()}
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


@pytest.mark.parametrize("name", FORMS)
def test_unpacked_as_the_slow_way_does(name: str, checkpoints: Callable[[str], Path]) -> None:
    form, folder = FORMS[name], checkpoints(name)
    edit = edit_of(form)
    plan = make_plan(name, open_checkpoint(folder), edit)
    tensors = load_file(folder / "model.safetensors")
    seen = 0
    for stored_name, rewrite in plan.rewrites.items():
        if rewrite.packing is None:
            continue
        module = stored_name.removesuffix(f".{form.names['codes']}")
        (matrix,) = Stored(rewrite).matrices()
        torch.testing.assert_close(
            matrix, words.unpack(form, tensors, module).weight, rtol=1e-6, atol=0
        )
        seen += 1
    assert seen == len(edited_modules(edit, tensors, form))
    assert seen >= 5


@pytest.mark.parametrize("name", FORMS)
def test_what_is_written_is_the_operator_within_a_step(
    name: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    form, folder = FORMS[name], checkpoints(name)
    edit = edit_of(form)
    kept = write_edited(edit, folder, tmp_path / "out")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "out"))
    modules = edited_modules(edit, before, form)
    moved = {"codes", "scale"} | (set() if form.symmetric else {"zero"})
    allowed = {f"{module}.{form.names[part]}" for module in modules for part in moved}
    allowed |= {f"{writer}.bias" for writer in edit.writers}
    assert before.keys() == after.keys()
    for one in before.keys() - allowed:
        assert torch.equal(before[one].view(torch.uint8), after[one].view(torch.uint8)), one
    assert (folder / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()

    new_grids = groups = 0
    shares: list[tuple[float, float]] = []
    for module, index in modules.items():
        old, new = (words.unpack(form, tensors, module) for tensors in (before, after))
        u, v = edit.u[index], edit.v[index]
        wanted = removed(old.weight, u, v, float(edit.strengths[index]))
        # Half a step where a number lies beyond the end, a whole one at most where it is rounded by chance.
        assert bool(((new.weight - wanted).abs() <= 1.001 * new.step).all()), module
        at_end = (new.integers == 0) | (new.integers == (1 << form.bits) - 1)
        beyond = (wanted / new.step + new.zero).sub(new.integers).abs()[at_end]
        assert float(beyond.max()) <= 1.001
        for group in range(len(old.scale)):
            columns = old.group_of == group
            place = wanted[:, columns] / old.step[:, columns] + old.zero[:, columns]
            fits = (place >= -0.501).all(1) & (place <= (1 << form.bits) - 1 + 0.501).all(1)
            clearly = (place >= -0.499).all(1) & (place <= (1 << form.bits) - 1 + 0.499).all(1)
            same = (new.scale[group] == old.scale[group]) & (
                new.zero[:, columns] == old.zero[:, columns]
            ).all(1)
            assert bool(same[clearly].all()), "a grid was given up that held its numbers"
            assert not bool(same[~fits].any()), "a grid was kept that does not hold its numbers"
            new_grids += int((~same).sum())
            groups += len(same)
        change = wanted - old.weight
        shares.append(
            (float((change * (new.weight - old.weight)).sum()), float(change.square().sum()))
        )
    got, whole = map(sum, zip(*shares, strict=True))
    assert got / whole == pytest.approx(1, abs=0.1)
    assert kept.share == pytest.approx(got / whole, abs=1e-3)
    # Both kinds of group occur, or this test would not see one of them.
    assert 0 < new_grids < groups


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


@pytest.mark.parametrize("part", ["qweight", "scales", "qzeros"])
def test_what_was_written_wrongly_is_found(
    part: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    plan = make_plan("awq", open_checkpoint(checkpoints("awq")), edit_of(FORMS["awq"]))
    (file,) = plan.checkpoint.files
    copy = tmp_path / "model.safetensors"
    rewrite_file(plan, file, copy, lambda _: None)
    verify_file(plan, file, copy, Kept(), lambda _: None)
    name = f"model.layers.1.mlp.down_proj.{part}"
    entry = next(one for one in file.tensors if one.name == name)
    data = bytearray(copy.read_bytes())
    data[entry.start + 5] ^= 1
    copy.write_bytes(data)
    with pytest.raises(SaveError, match=f"s of {name} are not as they should be"):
        verify_file(plan, file, copy, Kept(), lambda _: None)


def test_the_record_measures_what_codes_and_scales_mean_together(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, form = checkpoints("gptq desc_act"), FORMS["gptq desc_act"]
    edit = edit_of(form)
    plan = make_plan("gptq", open_checkpoint(folder), edit)
    write_checkpoint(plan, "digest", tmp_path / "out", {}, lambda *_: None)
    record = model_record(Reproduction.model_construct(), plan, tmp_path / "out")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "out"))
    changed = {name for name, one in before.items() if not torch.equal(one, after[name])}
    in_changes = {name for change in record.changes for name in change.tensors}
    assert changed <= in_changes
    assert in_changes == {name for name, one in record.tensors.items() if one.sketch is not None}
    for module in edited_modules(edit, before, form):
        weight = words.unpack(form, after, module).weight
        assert record.tensors[f"{module}.qweight"].norm == pytest.approx(float(weight.norm()))
        assert record.tensors[f"{module}.scales"].norm == 0


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


@pytest.mark.parametrize("name", ["awq", "int4"])
def test_plain_writers(name: str, checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    form, folder = FORMS[name], checkpoints(name)
    edit = edit_of(form)
    write_edited(edit, folder, tmp_path / "out", form="plain")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "out"))
    modules = edited_modules(edit, before, form)
    assert modules
    for module, index in modules.items():
        wanted = removed(
            words.unpack(form, before, module).weight,
            edit.u[index],
            edit.v[index],
            float(edit.strengths[index]),
        )
        torch.testing.assert_close(after[f"{module}.weight"], wanted)
        assert [one for one in after if one.startswith(f"{module}.")] == [
            one for one in (f"{module}.bias", f"{module}.weight") if one in after
        ]
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    listed = config["modules_to_not_convert" if name == "awq" else "ignore"]
    assert set(modules) < set(listed)
    assert "lm_head" in listed


def sharded(folder: Path, destination: Path, part: str) -> Path:
    """A copy in two files, one of them with all tensors of this ending."""
    tensors = load_file(folder / "model.safetensors")
    shutil.copytree(folder, destination)
    (destination / "model.safetensors").unlink()
    halves = {
        "model-00001-of-00002.safetensors": {
            name: one for name, one in tensors.items() if not name.endswith(part)
        },
        "model-00002-of-00002.safetensors": {
            name: one for name, one in tensors.items() if name.endswith(part)
        },
    }
    for name, half in halves.items():
        save_file(half, destination / name, {"format": "pt"})
    index = {"weight_map": {one: name for name, half in halves.items() for one in half}}
    (destination / "model.safetensors.index.json").write_text(json.dumps(index))
    return destination


def test_scales_in_another_file_and_a_call_that_is_taken_up_again(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = sharded(checkpoints("gptq desc_act"), tmp_path / "sharded", ".scales")
    edit = edit_of(FORMS["gptq desc_act"])
    write_edited(edit, checkpoints("gptq desc_act"), tmp_path / "whole")
    plan = make_plan("sharded", open_checkpoint(folder), edit)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done > plan.checkpoint.files[0].size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(plan, "digest", tmp_path / "out", {}, stop)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.partial" / plan.checkpoint.files[0].path.name).exists()
    write_edited(edit, folder, tmp_path / "out")
    parts = [load_file(path) for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    found = parts[0] | parts[1]
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, found[name]), name


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
        "a group that has no scale": broken("gptq", put("g_idx", lambda one: one + 1)),
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
        "with 5 bits": broken("gptq", nothing, bits=5),
        "with 8 bits": broken("awq", nothing, bits=8),
    }
    for words_, message in {**unknown, "zero points": messages["zero points of 0"]}.items():
        assert words_ in message
        assert "save an adapter instead (excise export RUN --adapter DIR)" in message


def test_g_idx_may_be_left_out_where_it_says_nothing(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "plainly"
    shutil.copytree(checkpoints("gptq"), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: one for name, one in tensors.items() if not name.endswith(".g_idx")},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    edit = edit_of(FORMS["gptq"])
    write_edited(edit, folder, tmp_path / "without")
    write_edited(edit, checkpoints("gptq"), tmp_path / "with")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("without", "with"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_choice_is_shown(
    checkpoints: Callable[[str], Path], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, title in (("gptq", "GPTQ 4-bit"), ("awq", "AWQ 4-bit")):
        folder = checkpoints(name)
        random = edit_of(FORMS[name])
        edit = save_edit(random, folder, elsewhere / "edit.safetensors")
        assert main(["apply", str(edit), str(folder), name]) == 0
        shown = capsys.readouterr().out
        assert f"writers are stored as {title}" in shown
        assert shown.index("--packed:") < shown.index("Writing the edited model")
        assert "of the edit is left after packing" in shown
        # How far rounding moves a matrix, as the slow way finds it.
        module = "model.layers.0.mlp.down_proj"  # The first writer is left alone.
        before, after = (
            words.unpack(FORMS[name], load_file(one / "model.safetensors"), module).weight
            for one in (folder, elsewhere / name)
        )
        index = random.writers.index(module)
        wanted = removed(before, random.u[index], random.v[index], float(random.strengths[index]))
        assert f"rounding {float((after - wanted).norm() / wanted.norm()):.2%}" in shown
    assert main(["apply", str(edit), str(checkpoints("gptq")), "plain", "--packed", "plain"]) != 0
