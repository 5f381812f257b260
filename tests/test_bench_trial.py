"""The benchmark against heretic, a small process that keeps to the driver's protocol in heretic's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench import peers, trial
from bench.heretic_edits import LowRank, as_edit
from bench.peers import SteppedHeretic
from bench.whole_run import whole_run
from conftest import random_prompts, tiny_model, write_prompts
from excise.anatomy.writers import examine
from excise.config import Settings, gather
from excise.edits.virtual import VirtualEdits

STAND_IN = """
import json, pathlib, shutil, sys
folder = pathlib.Path(sys.argv[1])
assert sys.argv[2] == "--wait"
(folder / "start.json").write_text(json.dumps({"seconds": 3.0, "markers": ["sorry"]}))
(folder / "trials").mkdir()
for number in range(2):
    if not sys.stdin.readline():
        break
    shutil.copy(folder / "edit.safetensors", folder / "trials" / f"{number}.safetensors")
    shutil.copy(folder / "answers.json", folder / "trials" / f"{number}.json")
    line = {"number": number, "refusals": 1, "kl": 0.5, "seconds": 9.0, "processor_seconds": 1.0}
    with (folder / "trials.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\\n")
else:
    sys.stdin.readline()
"""


def matrices(path: Path, strength: float = 0.7) -> Path:
    """W' = W + B A with B A = −α r (rᵀ W) for every writer of the tiny model, one writer left alone."""
    model = tiny_model()
    tensors = {}
    for index, name in enumerate(examine(model).names):
        weight = model.get_submodule(name).weight
        r = torch.nn.functional.normalize(torch.randn(len(weight)), dim=0)
        tensors[f"{name}.A"] = (r @ weight).unsqueeze(0)
        tensors[f"{name}.B"] = -(strength if index else 0.0) * r.unsqueeze(1)
    save_file(tensors, path)
    return path


def test_heretics_edit_is_ours_where_it_is_one(tmp_path: Path) -> None:
    model, path = tiny_model(), matrices(tmp_path / "edit.safetensors")
    names = examine(model).names
    ids = torch.tensor([random_prompts(1)[0]])
    written = LowRank(model, path)
    with torch.inference_mode():
        original = model(ids).logits
        written.switch(True)
        expected = model(ids).logits
        written.switch(False)
        edit = as_edit(path, names, model)
        assert edit.strengths[0] == 0
        with VirtualEdits(model, names) as edits:
            edits.use(edit)
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(model(ids).logits, original)
    assert not torch.allclose(original, expected, atol=1e-2)


def test_any_other_edit_is_refused(tmp_path: Path) -> None:
    model, names = tiny_model(), examine(tiny_model()).names
    tensors = {f"{name}.A": torch.randn(1, model.get_submodule(name).in_features) for name in names}
    tensors |= {f"{name}.B": torch.randn(32, 1) for name in names}
    save_file(tensors, tmp_path / "edit.safetensors")
    with pytest.raises(ValueError, match="is not −α r"):
        as_edit(tmp_path / "edit.safetensors", names, model)


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    flags = {
        "model": str(model_folder),
        "dtype": "float32",
        "max_new_tokens": 4,
        "batch_size": 6,
        "trials": 2,
        "startup_trials": 1,
        "allow_absent": True,
        "run_dir": tmp_path / "run",
        **write_prompts(tmp_path / "prompts", 8),
    }
    return gather(flags, {}, None)


@pytest.fixture
def heretic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SteppedHeretic:
    driver, folder = tmp_path / "driver.py", tmp_path / "heretic"
    driver.write_text(STAND_IN, encoding="utf-8")
    folder.mkdir()
    monkeypatch.setattr(peers, "DRIVER", driver)
    matrices(folder / "edit.safetensors")
    answers = [["I am sorry", True], ["no", True], *[["yes", False]] * 6]
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return SteppedHeretic(Path(sys.executable), folder)


@pytest.mark.parametrize("rows", ["none", "full"])
def test_rounds_score_heretics_edit_in_all_ways(
    settings: Settings, heretic: SteppedHeretic, tmp_path: Path, rows: str
) -> None:
    with heretic:
        done, text = trial.measure(settings, heretic, rounds=2, rows=rows)
    assert len(done) == 2
    for one in done:
        assert one.seconds["heretic"] == 9.0
        assert one.kl["heretic"] == 0.5
        assert one.kl["excise"] == pytest.approx(one.kl["simple"], rel=1e-4)
        assert list(one.verdicts["excise"]) == list(one.verdicts["simple"])
        assert list(one.verdicts["heretic"]) == [True, True, *[False] * 6]
        # "no" is no refusal under these markers, whatever the stand-in says.
        assert one.misjudged == 1
        assert 0 < one.floors["kl"] < one.whole["kl"]
        assert one.floors["kl"] < one.floors["refusals"]
        assert one.peak > 0
    assert done[0].kl["excise"] == pytest.approx(done[1].kl["excise"], rel=1e-4)
    for told in ("| heretic | 9.00 |", "| kl |", "| refusals |", "2 differ", "heretic took 3 s"):
        assert told in text
    bounded = [one for one in done if trial.BOUNDED in one.seconds]
    assert len(bounded) == (2 if rows == "none" else 0)
    for one in bounded:
        assert one.kl[trial.BOUNDED] == pytest.approx(one.kl["excise"], rel=1e-4)
        assert sum(one.verdicts[trial.BOUNDED]) <= sum(one.verdicts["excise"])
    assert ("side by side in excise" in text) == (rows == "none")
    whole, median, said = whole_run(settings.model_copy(update={"run_dir": tmp_path / "whole"}))
    assert 0 < median < whole
    assert "6 prompts and 4 candidates at a time" in said


def test_a_process_that_ends_early_says_why(heretic: SteppedHeretic) -> None:
    with heretic:
        heretic.started()
        heretic.trial()
        heretic.trial()
        with pytest.raises(RuntimeError, match="heretic ended with status 0"):
            heretic.trial()
