"""`excise apply` on GPTQ, AWQ and compressed-tensors in words: held against packing one integer at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import word_formats as words
from conftest import write_edited
from excise.checkpoint.folder import open_checkpoint
from excise.cli.main import main
from excise.edits.matrices import removed
from excise.errors import SaveError
from excise.reproduce.record import Reproduction
from excise.rewrite.plan import make_plan
from excise.rewrite.rewrite_file import rewrite_file
from excise.rewrite.tensor_data import TensorData
from excise.rewrite.verify import Kept, verify_file
from excise.rewrite.write import write_checkpoint
from excise.saving.reproduction import model_record
from excise.system.quiet import quiet_libraries
from test_apply import save_edit
from word_formats import FORMS, edit_of, edited_modules, kept_in

pytest_plugins = ["cli_support"]
quiet_libraries()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return kept_in(tmp_path_factory.mktemp("words"))


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
        (matrix,) = TensorData(rewrite).matrices()
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
    with pytest.raises(SaveError, match=f"s of {name} are wrong after writing"):
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
        assert "of the edit remains after packing" in shown
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
