"""Everything that is written, written under the rules of Windows' file systems."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM

import packed_models as packed
from cli_helpers import result
from conftest import tiny_model
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.base import Base
from sweep import random_edit
from windows_files import windows_files

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[Path]:
    with windows_files(tmp_path):
        yield tmp_path


def test_the_rules_hold(windows: Path) -> None:
    file, other = windows / "file", windows / "other"
    file.write_bytes(b"x" * 5000)
    with file.open("rb") as held:
        with pytest.raises(PermissionError, match="in use"):
            file.unlink()
        with pytest.raises(PermissionError, match="in use"):
            os.replace(file, other)
        with pytest.raises(OSError, match="not open for writing"):
            os.fsync(held.fileno())
        mapped = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ)
    with pytest.raises(PermissionError, match="in use"):
        os.replace(file, other)
    mapped.close()
    with pytest.raises(OSError, match="privilege"):
        other.symlink_to(file)
    with pytest.raises(PermissionError, match="a folder"):
        os.open(windows, os.O_RDONLY)
    (windows / "a").mkdir()
    (windows / "b").mkdir()
    with pytest.raises(PermissionError, match="in the way"):
        os.replace(windows / "a", windows / "b")
    os.replace(file, other)
    other.unlink()


def require_names(folder: Path) -> None:
    """Every name under `folder` is one on Windows."""
    for path in folder.rglob("*"):
        assert not PureWindowsPath(path.name).is_reserved(), path
        assert path.name == path.name.rstrip(" ."), path
        assert not set(path.name) & set('<>:"\\|?*'), path


def test_a_run_is_searched_saved_and_gone_on_with(small: list[str], windows: Path) -> None:
    run = windows / "a run"
    empty = windows / "empty"
    empty.mkdir()
    arguments = [*small, "--run-dir", str(run), "--yes"]
    saving = ["--save", str(empty), "--adapter", str(windows / "adapter")]
    assert main([*arguments, *saving]) == 0
    assert main([*arguments, "--trials", "8", "--seeds", "2"]) == 0
    assert len(result(run)["trials"]) == 8
    assert main(["export", str(run), "--save", str(windows / "again")]) == 0
    assert main(["export", str(run), "--adapter", str(windows / "adapter again")]) == 0
    assert main(["show", str(run), "--plot", str(windows / "plot.svg")]) == 0
    require_names(windows)


def test_an_edit_is_applied_and_read_off_and_a_model_made_again(
    small: list[str], windows: Path
) -> None:
    run, saved = windows / "run", windows / "saved"
    assert main([*small, "--run-dir", str(run), "--yes", "--save", str(saved)]) == 0
    assert main(["apply", str(run), small[0], str(windows / "applied")]) == 0
    made = [f"--undo={windows / 'undo'}", f"--edit={windows / 'edit.safetensors'}"]
    assert main(["diff", small[0], str(saved), *made]) == 0
    assert main(["reproduce", str(saved / "reproduce.json"), str(windows / "again")]) == 0
    require_names(windows)


def test_a_gguf_file_is_applied_to_and_what_was_mapped_is_let_go(windows: Path) -> None:
    path, edit_path = windows / "model.gguf", windows / "edit.safetensors"
    packed.write_gguf(path, GGMLQuantizationType.Q8_0)
    model = AutoModelForCausalLM.from_pretrained(windows, gguf_file=path.name)
    edit = random_edit(examine(model))
    del model
    replace(edit, base=Base.of(resolve(str(path)))).save(edit_path)
    for name in ("out.gguf", "again.gguf"):
        assert main(["apply", str(edit_path), str(path), str(windows / name)]) == 0
    assert main(["apply", str(edit_path), str(path), str(windows / "out.gguf")]) == 2
    # filelock takes the lock away there by its own means.
    assert [one for one in windows.glob(".*") if one.suffix != ".lock"] == []
    require_names(windows)


def test_files_of_pytorch_are_mapped_and_let_go(windows: Path) -> None:
    folder, edit_path = windows / "model", windows / "edit.safetensors"
    model = tiny_model()
    model.save_pretrained(folder)
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    edit = random_edit(examine(model))
    replace(edit, base=Base.of(resolve(str(folder)))).save(edit_path)
    assert main(["apply", str(edit_path), str(folder), str(windows / "out")]) == 0
    assert (
        main(["diff", str(folder), str(windows / "out"), f"--edit={windows / 'edit again'}"]) == 0
    )
    assert (windows / "out" / "pytorch_model.bin").is_file()
    require_names(windows)
