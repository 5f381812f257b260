"""What is written for good on a disk that fails: one line, nothing half-written, and what was there stays."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

import packed_models as packed
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.edit import Edit
from excise.errors import SaveError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.system.files import move_into_place, new_folder, replacing
from faulty_disk import FaultyDisk
from sweep import random_edit

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def contents(folder: Path) -> dict[str, object]:
    """Every file by its name; the header of a safetensors file is a set of keys, in any order."""

    def content(path: Path) -> object:
        whole = path.read_bytes()
        if path.suffix != ".safetensors":
            return whole
        end = 8 + int.from_bytes(whole[:8], "little")
        return json.loads(whole[8:end]), whole[end:]

    return {
        str(path.relative_to(folder)): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def edit(finished_run: Path) -> Path:
    return next(finished_run.glob("edit-*.safetensors"))


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("what", ["model", "adapter", "edit"])
def test_every_fault_of_the_disk_while_something_is_saved(
    what: str,
    stays: bool,
    edit: Path,
    model_folder: Path,
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = elsewhere / "place"
    out = place / ("out.safetensors" if what == "edit" else "out")
    command = {
        "model": ["apply", str(edit), str(model_folder), str(out)],
        "adapter": ["export", str(edit), "--adapter", str(out)],
        "edit": ["diff", str(model_folder), str(elsewhere / "edited"), "--edit", str(out)],
    }[what]
    if what == "edit":
        assert main(["apply", str(edit), str(model_folder), str(elsewhere / "edited")]) == 0

    def start_anew() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()

    start_anew()
    counted = FaultyDisk(place)
    with counted.used():
        assert main(command) == 0
    wanted = contents(place)
    assert {"open", "write", "flush", "rename"} <= counted.kinds().keys()
    for number in range(0, len(counted.done), 3 if stays else 1):
        start_anew()
        capsys.readouterr()
        with FaultyDisk(place, number, stays=stays).used():
            status = main(command)
        told, at = capsys.readouterr().err.splitlines(), (number, counted.done[number])
        there = {name: text for name, text in contents(place).items() if name.startswith("out")}
        if status == 0:
            assert there == wanted, at
            continue
        assert (at, status, len(told)) == (at, 2, 1), told
        assert "could not be written" in told[0]
        if there:
            # All of it, though nobody can promise that it outlives a power failure.
            assert (there, counted.done[number]) == (wanted, ("flush", "place")), at
            assert what == "edit" or f"{out} is left behind; delete it" in told[0]
            start_anew()
        elif not stays:
            assert contents(place) == {}, at
        assert main(command) == 0, at
        assert contents(place) == wanted, at


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """As on a disk that is full, for what writes past Python too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_gguf_model_that_does_not_fit_on_the_disk_is_one_line(elsewhere: Path) -> None:
    packed.write_gguf(elsewhere / "model.gguf", Kind.F16, tokenizer=True)
    loaded = load(resolve(str(elsewhere / "model.gguf")), LoadOptions(dtypes=("float32",)))
    edit = random_edit(examine(loaded.model))
    before = contents(elsewhere)
    with (
        files_no_longer_than(30_000),
        pytest.raises(SaveError, match=r"out: could not be written \(.*File too large"),
    ):
        save_model(loaded, DescribedEdit(edit, ""), elsewhere / "out")
    assert contents(elsewhere) == before
    save_model(loaded, DescribedEdit(edit, ""), elsewhere / "out")


def test_an_edit_and_an_adapter_that_do_not_fit_are_one_line(
    edit: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Edit.load(edit)
    with files_no_longer_than(500):
        with pytest.raises(SaveError, match=r"\(File too large\); nothing was left behind"):
            found.save(elsewhere / "edit.safetensors")
        assert main(["export", str(edit), "--adapter", "adapter"]) == 2
    assert "adapter: could not be written (" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_takes_its_name(elsewhere: Path) -> None:
    with FaultyDisk(elsewhere).used() as disk:
        with replacing(elsewhere / "file") as temporary:
            temporary.write_text("content")
        folder = elsewhere / "new"
        with new_folder(folder) as unfinished:
            (unfinished / "inside").mkdir()
            (unfinished / "inside" / "file").write_text("content")
    done = [(what, name) for what, name in disk.done if what in ("flush", "rename")]
    assert done == [
        ("flush", temporary.name),
        ("rename", temporary.name),
        ("flush", elsewhere.name),
        ("flush", "file"),
        ("flush", "inside"),
        ("flush", unfinished.name),
        ("rename", unfinished.name),
        ("flush", elsewhere.name),
    ]


def test_a_name_that_is_refused_for_a_moment_is_taken(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So on Windows, while a virus scanner or a reader has the file open."""
    replace, tries = os.replace, []

    def refused(old: Path, new: Path) -> None:
        tries.append(new)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refused)
    (elsewhere / "old").write_text("content")
    move_into_place(elsewhere / "old", elsewhere / "new")
    assert (elsewhere / "new").read_text() == "content"
    assert len(tries) == 3


def test_the_working_directory_is_no_new_folder(
    edit: Path, model_folder: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["apply", str(edit), str(model_folder), "."],
        ["export", str(edit), "--adapter=."],
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "is not a name for a new folder" in line
    assert list(elsewhere.iterdir()) == []
