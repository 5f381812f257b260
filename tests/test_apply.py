"""`excise apply` on plain checkpoints: what it writes, what survives a kill, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, PreTrainedModel

from conftest import SHAPE, fill, random_prompts, tiny_model, tiny_tokenizer, write_edited
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError, SaveError
from excise.operators.operator import orthogonal, row_normalised, unit
from excise.rewrite.resumable_folder import mark_path, partial_path, resumable_folder
from test_realisations import logits, random_edit

pytest_plugins = ["cli_support"]


def save_sharded(model: PreTrainedModel, folder: Path, size: str = "12KB") -> Path:
    model.save_pretrained(folder, max_shard_size=size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_edit(edit: Edit, folder: Path, path: Path) -> Path:
    """The edit, saying that it was made of the checkpoint in `folder`."""
    dataclasses.replace(edit, base=Base.of(resolve(str(folder)))).save(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of many shards in bfloat16, and an edit of it. Tests must not change them."""
    folder = tmp_path_factory.mktemp("made")
    model = tiny_model("llama with biases").to(torch.bfloat16)
    save_sharded(model, folder / "model")
    (folder / "model" / "extra").mkdir()
    (folder / "model" / "extra" / "processor.json").write_text("{}")
    edit = random_edit(model, examine(model), "discriminant")
    return folder / "model", save_edit(edit, folder / "model", folder / "edit.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_apply_by_hand(
    made: tuple[Path, Path], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, edit = made
    assert main(["apply", str(edit), str(model), str(elsewhere / "out")]) == 0
    shown = capsys.readouterr().out
    assert "14 tensors edited as the operator says · 53 untouched, bit-identical" in shown
    before, after = contents(model), contents(elsewhere / "out")
    assert after.keys() == before.keys() | {"README.md"}
    for name in before:
        if not name.endswith(".safetensors"):
            assert after[name] == before[name], name
    assert [path.name for path in elsewhere.iterdir()] == ["out"]


def as_pytorch_files(folder: Path) -> None:
    """The weights of a sharded safetensors checkpoint as old PyTorch files."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for path in sorted(folder.glob("*.safetensors")):
        torch.save(load_file(path), folder / f"pytorch_{path.name}".replace(".safetensors", ".bin"))
        path.unlink()
    index["weight_map"] = {
        name: f"pytorch_{file}".replace(".safetensors", ".bin")
        for name, file in index["weight_map"].items()
    }
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("single", [False, True])
def test_old_pytorch_files_stay_what_they_are(single: bool, tmp_path: Path) -> None:
    model = tiny_model("qwen3, tied")
    edit = random_edit(model, examine(model), "two directions")
    folder = tmp_path / "old"
    if single:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")  # with the tied weight twice
    else:
        as_pytorch_files(save_sharded(model, folder))
    write_edited(edit, folder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in folder.iterdir()
    }
    for path in (tmp_path / "out").glob("*.bin"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    prompts = random_prompts(3)
    with VirtualEdits(model, edit.writers) as edits:
        edits.use(edit)
        virtual = logits(model, prompts)
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(edited, prompts), virtual, atol=2e-4, rtol=1e-4)


def test_row_normalised_experts_take_their_own_operator_across_shards(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GptOssConfig(
        **{**SHAPE, "num_hidden_layers": 2}, num_local_experts=3, num_experts_per_tok=2
    )
    model = fill(AutoModelForCausalLM.from_config(config))
    model.model.layers[0].mlp.experts.down_proj_bias.normal_()
    save_sharded(model, tmp_path / "model", "9KB")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    block = "model.layers.0.mlp.experts"
    files = {index["weight_map"][f"{block}.{name}"] for name in ("down_proj", "down_proj_bias")}
    assert len(files) == 2, "matrix and bias have to lie in two files"
    anatomy = examine(model)
    r = unit(torch.randn(SHAPE["hidden_size"]))
    operator = orthogonal(r.expand(len(anatomy.names), -1))
    strengths = torch.full((len(anatomy.names),), 0.7)
    edit = Edit("row_normalised", anatomy.names, operator.u, operator.v, strengths, (block,))
    write_edited(edit, tmp_path / "model", tmp_path / "out")
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    before, after = model.get_submodule(block), edited.get_submodule(block)
    for expert in range(3):
        matrix = before.down_proj[expert].T
        own = row_normalised(r, matrix.norm(dim=1))
        expected = matrix - 0.7 * torch.outer(own.u, own.v @ matrix)
        torch.testing.assert_close(after.down_proj[expert].T, expected, atol=1e-5, rtol=1e-5)
        bias = before.down_proj_bias[expert]
        expected = bias - 0.7 * own.u * (own.v @ bias)
        torch.testing.assert_close(after.down_proj_bias[expert], expected, atol=1e-5, rtol=1e-5)


def test_killed_at_any_moment_the_next_call_ends_with_a_correct_model(
    made: tuple[Path, Path], elsewhere: Path
) -> None:
    """SIGKILL at 20 random moments, some of them one after the other."""
    model, edit = made
    arguments = ["apply", str(edit), str(model), str(elsewhere / "out"), "--json"]
    started = time.perf_counter()
    assert main(arguments) == 0
    seconds = time.perf_counter() - started
    wanted = contents(elsewhere / "out")
    shutil.rmtree(elsewhere / "out")
    chance, kills = random.Random(0), 0
    # Forked, so that nothing has to be imported again.
    context = multiprocessing.get_context("fork")
    while kills < 20:
        process = context.Process(target=main, args=(arguments,))
        process.start()
        process.join(chance.uniform(0.05, 1.2) * seconds)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            kills += 1
        if (elsewhere / "out").exists():
            assert contents(elsewhere / "out") == wanted
        elif chance.random() < 0.3:
            continue  # killed once more before anybody lets it finish
        if not (elsewhere / "out").exists() or partial_path(elsewhere / "out").exists():
            assert main(arguments) == 0
            assert contents(elsewhere / "out") == wanted
            assert [path.name for path in elsewhere.iterdir()] == ["out"]
        shutil.rmtree(elsewhere / "out")


def test_killed_once_the_folder_has_its_name_nothing_stays_for_good(
    made: tuple[Path, Path],
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, edit = made
    out = elsewhere / "out"
    arguments = ["apply", str(edit), str(model), str(out)]
    replace = os.replace

    def killed(old: Path, new: Path) -> None:
        replace(old, new)
        if new == out:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert main(arguments) == 130
    whole = contents(out)
    assert whole.keys() == contents(model).keys() | {"README.md"}
    assert mark_path(out).exists()
    capsys.readouterr()
    assert main(arguments) == 2
    assert "already exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in elsewhere.iterdir()] == ["out"]


def test_two_calls_cannot_write_one_folder(
    made: tuple[Path, Path], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, edit = made
    with resumable_folder(elsewhere / "out", "one") as place:
        assert main(["apply", str(edit), str(model), "out"]) == 2
        assert "another process is writing it" in capsys.readouterr().err
        with place.file("a") as path:
            path.write_text("a")
    assert contents(elsewhere / "out") == {"a": b"a"}


def test_an_interrupted_call_is_taken_up_and_another_edit_starts_clean(
    made: tuple[Path, Path], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edit = made
    out = elsewhere / "out"
    written: list[str] = []
    from excise.rewrite import write

    rewrite_file = write.rewrite_file

    def stopped_at_the_third(plan, file, path, advance):  # type: ignore[no-untyped-def]
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file.path.name)
        rewrite_file(plan, file, path, advance)

    def seen(plan, file, path, advance):  # type: ignore[no-untyped-def]
        written.append(file.path.name)
        rewrite_file(plan, file, path, advance)

    monkeypatch.setattr(write, "rewrite_file", stopped_at_the_third)
    assert main(["apply", str(edit), str(model), str(out)]) == 130
    assert not out.exists()
    first = list(written)
    monkeypatch.setattr(write, "rewrite_file", seen)
    written.clear()
    assert main(["apply", str(edit), str(model), str(out)]) == 0
    assert not set(first) & set(written)
    assert len(first) + len(written) == len(list(model.glob("*.safetensors")))

    # What one edit left is nothing to another one.
    monkeypatch.setattr(write, "rewrite_file", stopped_at_the_third)
    written.clear()
    assert main(["apply", str(edit), str(model), str(elsewhere / "two")]) == 130
    other = tiny_model("llama with biases").to(torch.bfloat16)
    other_edit = random_edit(other, examine(other), "orthogonal", seed=5)
    path = save_edit(other_edit, model, elsewhere / "other.safetensors")
    monkeypatch.setattr(write, "rewrite_file", seen)
    written.clear()
    assert main(["apply", str(path), str(model), str(elsewhere / "two")]) == 0
    assert len(written) == len(list(model.glob("*.safetensors")))


def test_damage_after_writing_is_found_and_nothing_stays(
    made: tuple[Path, Path], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flips on its way to the disk, in an untouched tensor and in an edited one."""
    model, edit = made
    from excise.rewrite import write

    rewrite_file = write.rewrite_file
    for wanted, what in (("embed_tokens", "numbers of"), ("o_proj", "edited numbers of")):

        def flipped(plan, file, path, advance, wanted=wanted):  # type: ignore[no-untyped-def]
            rewrite_file(plan, file, path, advance)
            for one in file.tensors:
                if wanted in one.name and "layers.0" not in one.name:
                    data = bytearray(path.read_bytes())
                    data[one.start + 1] ^= 0x40
                    path.write_bytes(data)

        monkeypatch.setattr(write, "rewrite_file", flipped)
        with pytest.raises(SaveError, match=what) as caught:
            write_edited(Edit.load(edit), model, elsewhere / "out")
        assert "\n" not in str(caught.value)
        assert list(elsewhere.iterdir()) == []


def cut(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7])


def garbled(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(b"\xff" * 40 + path.read_bytes()[40:])


def absent_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def absent_tensor(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path, {"format": "pt"})


def outside_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../stolen.safetensors")
    index.write_text(json.dumps(content))


def link_out(folder: Path) -> None:
    path = folder / "tokenizer.json"
    shutil.move(path, folder.parent / "elsewhere.json")
    path.symlink_to(folder.parent / "elsewhere.json")


class Payload:
    """Writes a file when it is unpickled: no test may find that file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return os.system, ("touch /tmp/excise-test-ran-a-pickle", "")


def pickle_inside(folder: Path) -> None:
    as_pytorch_files(folder)
    torch.save({"x": Payload()}, sorted(folder.glob("*.bin"))[0])


def old_pickle(folder: Path) -> None:
    as_pytorch_files(folder)
    path = sorted(folder.glob("*.bin"))[0]
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged weights file"),
        (garbled, "damaged weights file"),
        (absent_shard, "which is missing"),
        (absent_tensor, "names tensors that its files do not hold"),
        (outside_index, "is not a file of this folder"),
        (link_out, "a symbolic link out of the folder"),
        (pickle_inside, "could run code"),
        (old_pickle, "not a PyTorch file of version 1.6 or later"),
    ],
)
def test_damaged_checkpoints_are_one_line(
    damage: Callable[[Path], None],
    message: str,
    made: tuple[Path, Path],
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, edit = made
    shutil.copytree(model, elsewhere / "model")
    damage(elsewhere / "model")
    before = contents(elsewhere / "model")
    assert main(["apply", str(edit), "model", "out", "--force"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (elsewhere / "out").exists()
    assert not partial_path(elsewhere / "out").exists()
    assert contents(elsewhere / "model") == before
    assert not Path("/tmp/excise-test-ran-a-pickle").exists()


def test_another_checkpoint_than_the_edits_own_is_refused_and_force_says_the_risk(
    made: tuple[Path, Path], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, edit = made
    other = save_sharded(tiny_model("llama with biases", seed=3), elsewhere / "other")
    assert main(["apply", str(edit), str(other), "out"]) == 2
    shown = capsys.readouterr().err
    assert "is not the checkpoint that the edit was made for" in shown
    assert resolve(str(other)).digest in shown
    assert main(["apply", str(edit), str(other), "out", "--force"]) == 0
    assert "may remove something else" in capsys.readouterr().out.replace("\n", " ")
    # A model of other writers is refused whatever is said.
    smaller = tiny_model()
    smaller.config.num_hidden_layers = 2
    smaller.model.layers = smaller.model.layers[:2]
    save_sharded(smaller, elsewhere / "smaller")
    assert main(["apply", str(edit), "smaller", "no", "--force"]) == 2
    assert "has no writer model.layers.2" in capsys.readouterr().err


def test_places_that_cannot_be_written_to(
    made: tuple[Path, Path],
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, edit = made
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "precious").write_text("mine")
    (elsewhere / "inside").mkdir()

    def said(out: str) -> str:
        assert main(["apply", str(edit), str(model), out]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "already exists and is not empty" in said("full")
    assert (elsewhere / "full" / "precious").read_text() == "mine"
    assert "contains the other" in said(str(model / "out"))
    assert not (model / "out").exists()
    assert "could not be written" in said("/proc/out")  # a place where even root writes nothing
    in_the_way = partial_path(elsewhere / "out")
    in_the_way.mkdir()
    (in_the_way / "precious").write_text("mine")
    assert "exists and was not written by excise" in said("out")
    assert (in_the_way / "precious").read_text() == "mine"
    shutil.rmtree(in_the_way)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    assert "the disk has 1,000; nothing was left behind" in said("out")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["full", "inside"]


def test_an_edit_of_a_run_is_applied_by_its_trial(
    finished_run: Path, model_folder: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = json.loads((finished_run / "result.json").read_text())["chosen"]["trial"]
    written: list[bytes] = []
    for word in (
        str(finished_run),
        f"{finished_run}:{number}",
        str(finished_run / f"edit-{number}.safetensors"),
    ):
        assert main(["apply", word, str(model_folder), "out"]) == 0
        written.append((elsewhere / "out" / "model.safetensors").read_bytes())
        shutil.rmtree(elsewhere / "out")
    assert written[0] == written[1] == written[2]
    assert written[0] != (model_folder / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["apply", str(finished_run), str(model_folder)]) == 2
    assert "apply: needs EDIT|RUN[:TRIAL] MODEL OUT" in capsys.readouterr().err


def test_the_card_of_an_applied_edit_tells_what_its_file_tells(
    made: tuple[Path, Path], finished_run: Path, model_folder: Path, elsewhere: Path
) -> None:
    chosen = json.loads((finished_run / "result.json").read_text())["chosen"]["trial"]
    shutil.copy(finished_run / f"edit-{chosen}.safetensors", elsewhere / "chosen.safetensors")
    assert main(["apply", "chosen.safetensors", str(model_folder), "measured"]) == 0
    card = (elsewhere / "measured" / "README.md").read_text()
    assert "held-out prompts, never seen by the search" in card
    assert main(["apply", str(made[1]), str(made[0]), "unmeasured"]) == 0
    card = (elsewhere / "unmeasured" / "README.md").read_text()
    assert "The edit file holds no figures" in card
    assert "None" not in card


def test_writers_that_a_run_was_told_of_stand_below_the_environment(
    small: list[str], model_folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = "self_attn.q_*=mlp.down_proj"
    told = [*small, f"--writers={claim}", "--run-dir", "run", "--yes", "--kind", "orthogonal"]
    # One at a time: of the trials so proposed, the best ones edit what the claim is about.
    assert main([*told, "--candidates", "1"]) == 0
    assert main(["apply", "run", str(model_folder), "as-told"]) == 0
    monkeypatch.setenv("EXCISE_WRITERS", "nothing.of.this=mlp.down_proj")
    assert main(["apply", "run", str(model_folder), "overruled"]) == 2
    assert main(["apply", "run", str(model_folder), "typed", "--writers", claim]) == 0
    monkeypatch.delenv("EXCISE_WRITERS")
    # An edit file by itself knows of none, and then the environment's count.
    shutil.copy(next((elsewhere / "run").glob("edit-*")), elsewhere / "edit.safetensors")
    words = ["apply", "edit.safetensors", str(model_folder)]
    assert main([*words, "no"]) == 2
    monkeypatch.setenv("EXCISE_WRITERS", claim)
    assert main([*words, "out"]) == 0


def test_a_run_on_files_of_old_pytorch_ends_in_an_adapter(
    small: list[str], model_folder: Path, elsewhere: Path
) -> None:
    """Such files cannot be rewritten, but whoever wants an adapter needs no more than their names."""
    shutil.copytree(model_folder, elsewhere / "old")
    tensors = load_file(elsewhere / "old" / "model.safetensors")
    (elsewhere / "old" / "model.safetensors").unlink()
    path = elsewhere / "old" / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    words = ["old", *small[1:], "--run-dir", "run", "--yes", "--adapter", "adapter"]
    assert main(words) == 0
    adapter = load_file(elsewhere / "adapter" / "adapter_model.safetensors")
    chosen = json.loads((elsewhere / "run" / "result.json").read_text())["chosen"]["trial"]
    assert main(["export", f"run/edit-{chosen}.safetensors", "--adapter", "streamed"]) == 0
    assert load_file(elsewhere / "streamed" / "adapter_model.safetensors").keys() == adapter.keys()


def test_what_cannot_be_looked_into_goes_by_its_name_and_links_to_folders_are_said(
    made: tuple[Path, Path], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, edit = made
    shutil.copytree(model, elsewhere / "model")
    copies = (
        *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors"),
        *("consolidated.00.pth", "Q8.gguf", "onnx/decoder_model_merged.onnx"),
    )
    others = (
        "training_args.bin",
        "scheduler.pt",
        "voices/af.pt",
        "feature_stats.h5",
        "modeling.py",
    )
    for name in (*copies, *others):
        path = elsewhere / "model" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    (elsewhere / "model" / "linked").symlink_to("extra")
    assert main(["apply", str(edit), "model", "out"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    before, after = contents(elsewhere / "model"), contents(elsewhere / "out")
    assert before.keys() - after.keys() == set(copies)
    assert after.keys() - before.keys() == {"README.md"}
    assert "left out, because it may hold a second, unedited copy of the weights, and" in shown
    assert "left out, because it is a link to a folder: linked" in shown


def test_a_snapshot_of_the_hub_links_to_its_own_blobs(
    made: tuple[Path, Path], elsewhere: Path
) -> None:
    model, edit = made
    blobs, snapshot = elsewhere / "cache" / "blobs", elsewhere / "cache" / "snapshots" / "abc"
    shutil.copytree(model, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    (snapshot / "extra").unlink()
    assert main(["apply", str(edit), str(snapshot), "out"]) == 0
    assert not [path for path in (elsewhere / "out").iterdir() if path.is_symlink()]


def test_headers_that_lie_are_damage(tmp_path: Path) -> None:
    from excise.checkpoint.tensors import read_safetensors

    save_file({"a": torch.ones(4, 4)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data.replace(b"[4,4]", b"[4,5]"))
    with pytest.raises(ModelError, match="does not fit its shape"):
        read_safetensors(tmp_path / "x.safetensors")
