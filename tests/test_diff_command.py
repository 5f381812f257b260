"""`excise diff` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_model, write_edited
from excise.anatomy.writers import examine
from excise.cli.main import main
from excise.edits.edit import Edit
from test_realisations import random_edit

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def edited(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an orthogonal edit in it."""
    model = tiny_model()
    folder = tmp_path_factory.mktemp("edited") / "edited"
    edit = random_edit(model, examine(model), "orthogonal")
    write_edited(edit, model_folder, folder)
    return folder


def test_an_edit_is_told_kept_and_undone(
    model_folder: Path,
    edited: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["diff", str(model_folder), str(edited)]
    assert main([*arguments, "--edit", "~/found.safetensors", "--undo", "~/undo"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for told in (
        "model.layers.*.mlp.down_proj.weight │ ×4 │ F32",
        "orthogonal (u = v = r, the direction of each layer)",
        "Each writer has its own direction.",
        "An edit of writers explains every change",
        "saved the edit to",
        "saved the adapter that undoes it to",
    ):
        assert told in out, told
    assert Edit.load(tmp_path / "found.safetensors").kind == "orthogonal"
    card = (tmp_path / "undo" / "README.md").read_text(encoding="utf-8")
    assert f"turns **{edited.name}** back into **{model_folder.name}**" in card
    assert str(model_folder.parent) not in card
    assert main(["show", "found.safetensors"]) == 0
    assert "7 of 7 writers" in capsys.readouterr().out
    # A second time, something is in the way, and that is said before the work.
    assert main([*arguments, "--undo", "undo"]) == 2
    assert "undo: already exists" in capsys.readouterr().err


def test_as_json(model_folder: Path, edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(model_folder), str(edited), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["identical"]
    assert {one["rank"] for one in found["changed"]} == {1}
    assert len(found["writers"]) == 7
    assert len(found["writers"][0]["u"]) == 32


def test_what_is_the_same_and_what_has_no_config(
    model_folder: Path, edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(model_folder), str(model_folder)]) == 0
    assert "All tensors are equal." in capsys.readouterr().out
    shutil.copy(edited / "model.safetensors", tmp_path / "bare.safetensors")
    shutil.copy(model_folder / "model.safetensors", tmp_path / "first.safetensors")
    # The configuration of one of them is enough.
    assert main(["diff", str(model_folder), "bare.safetensors"]) == 0
    assert "An edit of writers explains every change" in capsys.readouterr().out
    assert main(["diff", "first.safetensors", "bare.safetensors"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no search for edits: first.safetensors has no config.json" in out
    assert "Changes of low rank (at most 1)" in out
    tensors = load_file(edited / "model.safetensors")
    tensors["lm_head.weight"] += 0.1 * torch.randn(tensors["lm_head.weight"].shape)
    shutil.copytree(edited, tmp_path / "trained")
    save_file(tensors, tmp_path / "trained" / "model.safetensors", {"format": "pt"})
    assert main(["diff", str(model_folder), "trained"]) == 0
    assert "1 of 8 changes are neither edits of writers" in capsys.readouterr().out


def test_mistakes_are_one_line(
    model_folder: Path, edited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(edited, tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for other, told in (
        ("nowhere", "no folder of that name is here"),
        ("./nowhere", "no such folder"),
        ("cut", "damaged weights file"),
        ("m.gguf", "GGUF files cannot be compared"),
    ):
        assert main(["diff", str(model_folder), other]) == 2, other
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert main(["diff", str(model_folder)]) == 2
    assert "diff: needs A" in capsys.readouterr().err
    same = ["diff", str(model_folder), str(model_folder)]
    assert main([*same, "--undo", "undo"]) == 2
    assert "do not differ by more than rounding" in capsys.readouterr().err
    assert not (tmp_path / "undo").exists()
