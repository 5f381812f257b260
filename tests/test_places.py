"""What is written names models and prompts such that they are found again from any working directory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from conftest import tiny_model
from excise.anatomy.writers import examine
from excise.checkpoint.source import Origin, resolve, snapshot_origin
from excise.cli.main import main
from excise.edits.base import Base
from excise.edits.edit import Edit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def edit_of(folder: Path, path: Path) -> Path:
    model = tiny_model()
    names = examine(model).names
    u = torch.nn.functional.normalize(torch.ones(len(names), 32), dim=1)
    base = Base.of(resolve(str(folder)))
    Edit("orthogonal", names, u, u, torch.ones(len(names)), base=base).save(path)
    return path


def configuration(adapter: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((adapter / "adapter_config.json").read_text())
    return content


def test_an_adapter_names_a_local_base_by_its_absolute_path_and_so_does_the_edit(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path / "models")
    edit = edit_of(Path("mine"), tmp_path / "edit.safetensors")
    assert main(["export", str(edit), "mine", "--adapter", str(tmp_path / "one")]) == 0
    absolute = str(tmp_path / "models" / "mine")
    assert configuration(tmp_path / "one")["base_model_name_or_path"] == absolute
    # The edit alone tells where its base is, wherever it is read.
    monkeypatch.chdir("/")
    assert main(["export", str(edit), "--adapter", str(tmp_path / "two")]) == 0
    assert configuration(tmp_path / "two")["base_model_name_or_path"] == absolute
    assert configuration(tmp_path / "two")["revision"] is None


def test_a_folder_of_the_hubs_cache_is_the_model_that_it_was_downloaded_as(
    model_folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / COMMIT
    shutil.copytree(model_folder, snapshot)
    source = resolve(os.path.relpath(snapshot))
    assert source.origin == Origin("owner/tiny", COMMIT)
    assert source.public_name == "owner/tiny"
    edit = edit_of(snapshot, tmp_path / "edit.safetensors")
    assert main(["export", str(edit), str(snapshot), "--adapter", str(tmp_path / "one")]) == 0
    found = configuration(tmp_path / "one")
    assert (found["base_model_name_or_path"], found["revision"]) == ("owner/tiny", COMMIT)
    card = (tmp_path / "one" / "README.md").read_text()
    assert "base_model: owner/tiny" in card
    assert COMMIT in card


@pytest.mark.parametrize(
    "place",
    [
        f"models--owner--tiny/snapshots/{COMMIT[:-1]}",
        f"models--owner--tiny/{COMMIT}",
        f"datasets--owner--tiny/snapshots/{COMMIT}",
        f"models--a--b--c/snapshots/{COMMIT}",
        "models/mine",
    ],
)
def test_other_folders_are_nobodys(place: str) -> None:
    assert snapshot_origin(Path("/x") / place) is None


def test_models_of_one_word_have_one() -> None:
    assert snapshot_origin(Path(f"/x/models--gpt2/snapshots/{COMMIT}")) == Origin("gpt2", COMMIT)


def test_licences_go_along_with_adapters(model_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(model_folder, tmp_path / "base"))
    for name in ("LICENSE", "NOTICE.txt", "USE_POLICY.md", "license.png", "licences.json"):
        (base / name).write_text(f"{name} é", encoding="utf-8")
    edit = edit_of(base, tmp_path / "edit.safetensors")
    assert main(["export", str(edit), str(base), "--adapter", str(tmp_path / "one")]) == 0
    made = {path.name for path in (tmp_path / "one").iterdir()}
    assert made == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md"),
        *("LICENSE", "NOTICE.txt", "USE_POLICY.md"),
    }
    assert (tmp_path / "one" / "NOTICE.txt").read_text(encoding="utf-8") == "NOTICE.txt é"
