"""`reproduce.json` of originals in every storage, and when it is written: before the folder has its name."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

import packed_models as packed
from conftest import write_edited, write_prompts
from excise.anatomy.writers import examine
from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.source import resolve
from excise.checkpoint.tensors import read_bytes
from excise.cli.main import main
from excise.edits.edit import Edit
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.weights import dense
from excise.reproduce.record import read_reproduction
from excise.system.quiet import quiet_libraries
from test_apply_packed import edit_of, make

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")
quiet_libraries()


def original(form: str, folder: Path) -> Path:
    """A tiny checkpoint: packed, in a PyTorch file, or in shards."""
    if form == "shards":
        packed.plain_model("llama").save_pretrained(folder, max_shard_size="100KB")
        packed.tiny_tokenizer().save_pretrained(folder)
        assert len(list(folder.glob("*.safetensors"))) > 1
        return folder
    if form != "bin":
        return make(form, folder)
    packed.save("llama", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def raw(folder: Path) -> dict[str, bytes]:
    """The bytes of every stored tensor."""
    return {
        name: bytes(read_bytes(file.path, one.start, one.end))
        for name, (file, one) in open_checkpoint(folder).tensors.items()
    }


def writer_norms(folder: Path) -> dict[str, float]:
    """The length of what each writer holds, as transformers loads it."""
    model = load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).model
    return {
        writer.name: float(
            torch.cat(
                [
                    dense(model.get_submodule(owner), name).float().flatten()
                    for owner, _, name in (one.name.rpartition(".") for one in writer.tensors)
                ]
            ).norm()
        )
        for writer in examine(model).writers
    }


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a run on models whose prompts take more of them to be told apart."""
    flags = write_prompts(tmp_path_factory.mktemp("many"), 48)
    return [
        *(f"--{name.replace('_', '-')}={path}" for name, path in flags.items()),
        *("--trials", "3", "--startup-trials", "2", "--max-new-tokens", "4", "--batch-size", "8"),
        *("--dtype", "float32", "--allow-absent", "--kind", "orthogonal", "--yes"),
    ]


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "bnb_4bit", "bin", "shards"])
def test_whatever_the_original_is_stored_as_the_copy_is_on_record_and_made_again(
    form: str, prompts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = original(form, tmp_path / form), tmp_path / "model"
    run = [str(folder), *prompts, "--run-dir", str(tmp_path / "run"), "--save", str(model)]
    assert main(run) == 0
    record, before, after = read_reproduction(model), raw(folder), raw(model)
    assert {name: one.sha256 for name, one in record.tensors.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in after.items()
    }
    changed = {name for name, data in after.items() if data != before[name]}
    in_changes = {name for change in record.changes for name in change.tensors}
    assert changed
    assert changed <= in_changes
    assert in_changes == {name for name, one in record.tensors.items() if one.sketch is not None}
    # Measured is what the codes mean, in the unit of the change.
    norms = writer_norms(model)
    for change in record.changes:
        found = torch.tensor([record.tensors[name].norm for name in change.tensors]).norm()
        writer = next(one for one in norms if change.tensors[0].startswith(one))
        assert float(found) == pytest.approx(norms[writer], rel=0.01)
        assert change.size < found

    capsys.readouterr()
    assert main(["reproduce", str(model), str(tmp_path / "again")]) == 0
    assert "Same: all " in capsys.readouterr().out
    # A small move is rounding, a large one is not; neither is another original.
    content = json.loads((model / "reproduce.json").read_text())
    strengths = content["trial"]["strengths"]
    for factor, status in ((1 + 1e-3, 3), (2.0, 4)):
        content["trial"]["strengths"] = [one * factor for one in strengths]
        path = tmp_path / f"{status}.json"
        path.write_text(json.dumps(content))
        assert main(["reproduce", str(path), str(tmp_path / str(status))]) == status
        assert "the original is another model" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q4_0], ids=lambda kind: kind.name)
def test_of_a_gguf_file_a_model_is_saved_on_record_and_made_again(
    kind: Kind, prompts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "model.gguf", tmp_path / "model"
    unpacked = packed.write_gguf(path, kind, tokenizer=True)
    run = [str(path), *prompts, "--run-dir", str(tmp_path / "run"), "--save", str(model)]
    assert main([*run, "--adapter", str(tmp_path / "adapter")]) == 0
    record, tensors = read_reproduction(model), load_file(model / "model.safetensors")
    assert record.model.name == str(path)
    assert record.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert record.tensors[name].sha256 == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    # What is written is plain; the change is measured from what the file's codes mean.
    assert record.changes
    for change in record.changes:
        (name,) = change.tensors
        before = unpacked[name.removesuffix(".weight")]
        assert change.size == pytest.approx(float((tensors[name] - before).norm()), rel=1e-3)

    capsys.readouterr()
    for made in ("model", "adapter"):
        assert main(["reproduce", str(tmp_path / made), str(tmp_path / f"{made}-again")]) == 0
        assert "Same: all " in capsys.readouterr().out
    content = json.loads((model / "reproduce.json").read_text())
    strengths = content["trial"]["strengths"]
    for factor, status in ((1 + 1e-3, 3), (1.02, 4)):
        content["trial"]["strengths"] = [one * factor for one in strengths]
        (tmp_path / "reproduce.json").write_text(json.dumps(content))
        assert main(["reproduce", str(tmp_path), str(tmp_path / str(status))]) == status
        assert "the original is another model" not in capsys.readouterr().out
    # Another file of that name is told from it before anything is computed.
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert main(["reproduce", str(model), str(tmp_path / "other")]) == 2
    assert f"the model {path} (was " in capsys.readouterr().err


def test_unpacked_while_saving_it_is_unpacked_when_made_again(
    prompts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = original("fp8", tmp_path / "fp8"), tmp_path / "model"
    run = [
        str(folder),
        *prompts,
        "--packed",
        "plain",
        "--run-dir",
        str(tmp_path / "run"),
        "--save",
        str(model),
    ]
    assert main(run) == 0
    record = read_reproduction(model)
    assert record.packed == "plain"
    assert {record.tensors[name].dtype for one in record.changes for name in one.tensors} == {"F32"}
    assert main(["reproduce", str(model), str(tmp_path / "again")]) == 0
    assert "Same: all " in capsys.readouterr().out


@pytest.mark.parametrize(("form", "flag"), [("model", "--save"), ("adapter", "--adapter")])
def test_killed_while_the_record_is_made_there_is_no_folder_without_one(
    form: str, flag: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / form

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("excise.reproduce.fingerprint.sketch", interrupt)
        assert main(["export", str(finished_run), flag, str(out)]) == 130
    assert not out.exists()
    assert main(["export", str(finished_run), flag, str(out)]) == 0
    assert "reproduce.json` holds all it takes" in (out / "README.md").read_text()
    names = {path.name for path in out.iterdir()}
    assert "reproduce.json" in names
    assert not [name for name in names if name.startswith(".")]


def test_a_record_is_of_one_model_and_goes_along_with_no_other(
    finished_run: Path, tmp_path: Path
) -> None:
    """An edited model edited once more: the record of the first time would be a false one."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["export", str(finished_run), "--save", str(first)]) == 0
    assert (first / "reproduce.json").is_file()
    assert main(["apply", str(finished_run), str(first), str(second), "--force"]) == 0
    assert not (second / "reproduce.json").exists()
    added = (second / "README.md").read_text().split("# The original's card")[0]
    assert "reproduce" not in added
    edit = next(finished_run.glob("edit-*.safetensors"))
    assert main(["export", str(edit), "--adapter", str(tmp_path / "adapter")]) == 0
    assert "reproduce" not in (tmp_path / "adapter" / "README.md").read_text()


def test_what_a_killed_call_left_is_not_taken_over_by_another_command(
    finished_run: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the record was written; then the same edit is applied, which has no record."""
    out = tmp_path / "out"

    with monkeypatch.context() as patch:
        patch.setattr("excise.system.files.os.replace", _only_files)
        assert main(["export", str(finished_run), "--save", str(out)]) == 130
    assert (out.with_name(".out.partial") / "reproduce.json").is_file()
    assert main(["apply", str(finished_run), str(model_folder), str(out)]) == 0
    assert not (out / "reproduce.json").exists()


def test_an_edit_that_was_read_gives_the_weights_of_the_one_that_was_found(tmp_path: Path) -> None:
    """To the bit, wherever its numbers lie in its file: sums depend on addresses."""
    folder = packed.save("llama", tmp_path / "plain")
    found = edit_of(tmp_path / "llama")
    write_edited(found, folder, tmp_path / "found")
    for length in range(1, 65, 9):
        path = tmp_path / "edit.safetensors"
        replace(found, facts={"padding": "x" * length}).save(path)
        write_edited(Edit.load(path), folder, tmp_path / f"read-{length}")
        assert raw(tmp_path / f"read-{length}") == raw(tmp_path / "found")


def _only_files(source: Path, destination: Path) -> None:
    if Path(source).is_dir():
        raise KeyboardInterrupt
    shutil.move(source, destination)
