"""Folders of strangers: nothing in a run directory or a model's folder leads out of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from cli_helpers import failure, result, rewrite
from conftest import tiny_model
from excise.cli.main import main
from excise.errors import SaveError
from excise.rewrite.resumable_folder import (
    mark_path,
    partial_file,
    partial_path,
    resumable_folder,
)

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def test_what_a_killed_call_left_is_not_cleared_through_a_link(mine: Path, tmp_path: Path) -> None:
    destination = tmp_path / "out"
    partial_path(destination).symlink_to(mine)
    mark_path(destination).write_text('{"writing": "something else"}')
    with pytest.raises(SaveError, match="is a link"), resumable_folder(destination, "this"):
        pass
    assert (mine / "letter.txt").read_text() == "dear"
    partial_path(destination).unlink()
    mark_path(destination).unlink()
    mark_path(destination).symlink_to(mine / "letter.txt")
    with pytest.raises(SaveError, match="is a link"), resumable_folder(destination, "this"):
        pass
    assert (mine / "letter.txt").read_text() == "dear"
    mark_path(destination).unlink()
    partial_path(destination).symlink_to(mine / "letter.txt")
    with pytest.raises(SaveError, match="is a link"), partial_file(destination):
        pass
    assert (mine / "letter.txt").read_text() == "dear"


def test_links_inside_an_unfinished_folder_are_not_written_through(
    mine: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "out"
    folder = partial_path(destination)
    folder.mkdir()
    mark_path(destination).write_text('{"writing": "this"}')
    (folder / "a.txt.unfinished").symlink_to(mine / "new.txt")
    (folder / "sub").symlink_to(mine, target_is_directory=True)
    with resumable_folder(destination, "this") as place:
        for name in ("a.txt", "sub/letter.txt"):
            with place.file(name) as path:
                path.write_text("ours")
    assert sorted(path.name for path in mine.iterdir()) == ["letter.txt"]
    assert (mine / "letter.txt").read_text() == "dear"
    assert (destination / "sub" / "letter.txt").read_text() == "ours"


@pytest.mark.parametrize("name", ["journal.log", "result.json", ".result.json.1.partial", "seed-1"])
def test_a_run_is_not_gone_on_with_through_a_link(
    run: Path, mine: Path, small: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (run / name).exists():
        shutil.move(run / name, mine / "letter.txt")
    before = (mine / "letter.txt").read_bytes()
    (run / name).symlink_to(mine if name == "seed-1" else mine / "letter.txt")
    line = failure([*small, "--run-dir", str(run), "--yes"], capsys)
    assert f"{run / name}: is a link" in line
    assert (mine / "letter.txt").read_bytes() == before
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


def test_a_trial_is_a_number_before_it_is_part_of_a_file_name(
    run: Path, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "none")
    record = result(run)
    (run / "model-x").mkdir()
    (run / "edit-x").mkdir()
    front = record["front"]
    assert isinstance(front, list)
    edit = run / f"edit-{front[0]}.safetensors"
    shutil.copy(edit, mine / "edit.safetensors")
    evil = f"x/../../{mine.name}/edit"
    record |= {"front": [evil], "chosen": None}
    record["trials"] = [{"number": evil, "refusals": 0, "kl": 0.1, "state": "complete"}]
    rewrite(run / "result.json", record)
    before = sorted(mine.parent.rglob("*"))
    for command in (["show", str(run)], ["upload", str(run), "--to", "me/model"]):
        assert "should be a valid integer" in failure(command, capsys)
    assert sorted(mine.parent.rglob("*")) == before


def test_opening_a_run_says_which_model_it_reads_and_from_where(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = json.loads((run / "run.json").read_text(encoding="utf-8"))
    identity["settings"]["model"] = "somebody/else"
    rewrite(run / "run.json", identity)
    capsys.readouterr()
    assert main(["export", str(run), "--adapter", str(tmp_path / "adapter")]) == 2
    out = capsys.readouterr().out
    assert f"the model is somebody/else, as {run}/run.json says" in out
    assert "downloaded from the hub" in out


def test_a_run_directory_of_another_model_is_refused(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(seed=1).save_pretrained(model)
    identity = json.loads((run / "run.json").read_text(encoding="utf-8"))
    identity["settings"]["model"] = str(model)
    rewrite(run / "run.json", identity)
    line = failure(["export", str(run), "--adapter", str(tmp_path / "adapter")], capsys)
    assert "have changed since this run" in line


def test_comparing_and_reproducing_say_what_they_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    sets = [settings[f"{kind}_train"]["source"] for kind in ("target", "control")]
    assert main(["compare", str(run), str(run)]) == 0
    out = capsys.readouterr().out
    assert all(one in out for one in sets)
    assert main(["export", str(run), "--adapter", str(tmp_path / "adapter")]) == 0
    capsys.readouterr()
    assert main(["reproduce", str(tmp_path / "adapter"), str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "reading files that reproduce.json and the flags name" in out
    assert all(one in out for one in (*sets, settings["model"]))


def test_the_texts_of_prompts_are_written_to_no_file(
    run: Path, tmp_path: Path, prompt_flags: list[str]
) -> None:
    prompts = {
        line
        for flag in prompt_flags
        for line in Path(flag.partition("=")[2]).read_text(encoding="utf-8").splitlines()
    }
    assert main(["export", str(run), "--save", str(tmp_path / "saved")]) == 0
    written = [
        path for path in (*run.rglob("*"), *(tmp_path / "saved").rglob("*")) if path.is_file()
    ]
    assert len(written) > 8
    for path in written:
        content = path.read_bytes()
        assert not [line for line in prompts if len(line) > 20 and line.encode() in content], path


@pytest.mark.parametrize("key", ["save", "adapter", "run_dir"])
def test_a_settings_file_writes_over_nothing(
    small: list[str], mine: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("excise.toml").write_text(f"{key} = {json.dumps(str(mine))}", encoding="utf-8")
    assert f"{mine}: " in failure([*small, "--yes"], capsys)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("key", ["force", "public", "to", "token", "plot", "undo"])
def test_a_settings_file_holds_no_word_to_go_on(
    model: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("excise.toml").write_text(f"{key} = true", encoding="utf-8")
    assert f"excise.toml: {key}: no such setting" in failure(["inspect", str(model)], capsys)


def test_a_run_directory_of_pipes_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "runs" / "piped").mkdir(parents=True)
    os.mkfifo(tmp_path / "runs" / "piped" / "run.json")
    assert main(["runs"]) == 0
