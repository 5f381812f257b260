"""The edit file: round trip, older formats, what it says of its base, and plain safetensors."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import tiny_model
from excise.checkpoint.folder import open_checkpoint, weight_files
from excise.checkpoint.index import checkpoint_index, index_digest
from excise.checkpoint.source import ModelSource, resolve
from excise.edits.base import Base, require_base
from excise.edits.edit import FORMAT, Edit
from excise.errors import ModelError, RunError, SaveError
from packed_models import write_gguf

ROOT = Path(__file__).parent.parent
FORMAT_4 = ROOT / "tests" / "fixtures" / "edit-format-4.safetensors"
FORMAT_3 = ROOT / "tests" / "fixtures" / "edit-format-3.safetensors"
FORMAT_2 = ROOT / "tests" / "fixtures" / "edit-format-2.safetensors"
WRITERS = ("model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj")


def small_edit(base: Base | None = None) -> Edit:
    u = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    v = torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    return Edit(
        "discriminant",
        WRITERS,
        u,
        v,
        torch.tensor([1.0, 0.5]),
        parameters={"kind": "discriminant"},
        facts={"refusals": 3, "kl": 0.5, "prompts": 100, "uncovered": {}, "packing": None},
        base=base,
        settings_digest="0123456789abcdef",
    )


def test_everything_comes_back(tmp_path: Path, model_folder: Path) -> None:
    edit = small_edit(Base.of(resolve(str(model_folder))))
    edit.save(tmp_path / "edit.safetensors")
    again = Edit.load(tmp_path / "edit.safetensors")
    for name in ("kind", "writers", "parameters", "facts", "base", "settings_digest"):
        assert getattr(again, name) == getattr(edit, name), name
    for name in ("u", "v", "strengths"):
        assert torch.equal(getattr(again, name), getattr(edit, name))


def test_a_file_of_format_2_opens() -> None:
    with safe_open(FORMAT_2, framework="pt") as file:
        assert json.loads(file.metadata()["excise"])["format"] == 2 < FORMAT
    edit = Edit.load(FORMAT_2)
    # The kind that was called `discriminant` then.
    assert edit.kind == "discriminant_tokens"
    assert edit.writers[1] == "model.layers.0.mlp.down_proj"
    assert edit.strengths.tolist() == [1.0, 0.5, 0.0, 1.25]
    torch.testing.assert_close((edit.u * edit.v).sum(1), torch.ones(4))
    assert edit.base == Base("org/model", None, "0123456789abcdef", None)
    assert edit.facts == {
        "refusals": 3,
        "kl": 0.0625,
        "prompts": 100,
        "uncovered": {},
        "packing": None,
    }


def test_a_file_of_format_3_opens() -> None:
    """It has no checksum of its contents."""
    edit = Edit.load(FORMAT_3)
    assert edit.kind == "discriminant"
    assert edit.base == Base(
        "org/model", "c" * 40, "c" * 40, "0123456789abcdef", "fedcba9876543210"
    )
    assert edit.facts["trial"] == 3


def test_a_file_of_format_4_is_the_same_edit(tmp_path: Path) -> None:
    """It is the file of format 3, opened and saved again by an excise that wrote format 4."""
    with safe_open(FORMAT_4, framework="pt") as file:
        header = json.loads(file.metadata()["excise"])
        tensors = {name: file.get_tensor(name) for name in ("u", "v", "strengths")}
    assert (header["format"], header["kind"]) == (4, "discriminant_weighted")
    assert header["parameters"]["kind"] == "discriminant_weighted"
    edit = Edit.load(FORMAT_4)
    assert edit.kind == edit.parameters["kind"] == "discriminant"
    edit.save(tmp_path / "new.safetensors")
    older, again = Edit.load(FORMAT_3), Edit.load(tmp_path / "new.safetensors")
    for other in (older, again):
        for name in ("kind", "writers", "parameters", "facts", "base", "settings_digest"):
            assert getattr(other, name) == getattr(edit, name), name
    for name, tensor in tensors.items():
        assert all(torch.equal(getattr(one, name), tensor) for one in (edit, older, again))


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("discriminant", "discriminant_tokens"),
        ("discriminant_centred", "discriminant_centred"),
        ("discriminant_answers", "discriminant_answers"),
        ("leace", "leace"),
        ("row_normalised", "row_normalised"),
        ("recovered", "recovered"),
    ],
)
def test_kinds_of_older_files_keep_their_meaning(former: str, now: str, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    small_edit().save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["excise"])
        tensors = {name: file.get_tensor(name) for name in ("u", "v", "strengths")}
    header |= {"format": 3, "kind": former, "parameters": {"kind": former}}
    del header["sha256"]
    save_file(tensors, path, {"excise": json.dumps(header)})
    edit = Edit.load(path)
    assert (edit.kind, edit.parameters) == (now, {"kind": now})
    # Saved anew, the file holds the name that says what the kind is.
    edit.save(path)
    assert Edit.load(path).kind == now


def test_the_same_edit_has_the_same_bytes(tmp_path: Path) -> None:
    for name in "abcdefgh":
        small_edit().save(tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    small_edit().save(path)
    content = bytearray(path.read_bytes())
    # The last number of the file is a tensor's; another strength or direction is another edit.
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="do not match its checksum"):
        Edit.load(path)


def test_a_file_of_this_format_has_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    small_edit().save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("u", "v", "strengths")}
        header = json.loads(file.metadata()["excise"])
    del header["sha256"]
    save_file(tensors, tmp_path / "bare.safetensors", {"excise": json.dumps(header)})
    with pytest.raises(RunError, match="do not match its checksum"):
        Edit.load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": FORMAT + 1}, "newer than this excise reads"),
        ({"kind": "magic"}, "unknown kind 'magic'"),
        ({"writers": ["one"]}, "damaged"),
        ({"base": {"model": "x"}}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    small_edit().save(tmp_path / "edit.safetensors")
    with safe_open(tmp_path / "edit.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["excise"]) | {"format": 3} | change
        del header["sha256"]
        tensors = {name: file.get_tensor(name) for name in ("u", "v", "strengths")}
    save_file(tensors, tmp_path / "bad.safetensors", {"excise": json.dumps(header)})
    with pytest.raises(RunError, match=told) as caught:
        Edit.load(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)


def test_the_example_of_the_page_applies_the_operator(tmp_path: Path) -> None:
    """The six lines of docs/reference/edit-file.md, run as they stand there."""
    page = (ROOT / "docs" / "reference" / "edit-file.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.+?)```", page, re.DOTALL)
    assert block is not None
    code = block[1]
    assert len([line for line in code.splitlines() if line]) == 6
    assert "excise." not in code
    edit = small_edit()
    edit.save(tmp_path / "my-edit.safetensors")
    code = code.replace("my-edit.safetensors", str(tmp_path / "my-edit.safetensors"))
    y = torch.tensor([3.0, -1.0])
    names: dict[str, object] = {"y": y}
    exec(compile(code, "docs/reference/edit-file.md", "exec"), names)
    expected = y - edit.strengths[1] * (edit.v[1] @ y) * edit.u[1]
    assert torch.equal(names["y"], expected)  # type: ignore[arg-type]


def test_copies_share_an_index_however_they_are_cut_and_stored(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    (tmp_path / "old").mkdir()
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert len(weight_files(tmp_path / "many")[0]) > 3
    digests = {index_digest(checkpoint_index(tmp_path / name)) for name in ("one", "many", "old")}
    assert len(digests) == 1
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert index_digest(checkpoint_index(tmp_path / "half")) not in digests


def test_an_index_needs_no_place_of_the_numbers(tmp_path: Path) -> None:
    """Files from before PyTorch 1.6, matrices that were turned, types that safetensors has not."""
    tensors = tiny_model().state_dict()
    turned = {
        name: one.mT.contiguous().mT if one.dim() == 2 else one for name, one in tensors.items()
    }
    turned["lm_head.odd"] = torch.ones(2, dtype=torch.complex64)
    tensors["lm_head.odd"] = turned["lm_head.odd"]
    digests = set()
    for name, held, zipped in (
        ("new", tensors, True),
        ("old", tensors, False),
        ("turned", turned, True),
    ):
        path = tmp_path / name / "pytorch_model.bin"
        path.parent.mkdir()
        torch.save(held, path, _use_new_zipfile_serialization=zipped)
        digests.add(index_digest(checkpoint_index(path.parent)))
        with pytest.raises(ModelError):
            open_checkpoint(path.parent)
    assert len(digests) == 1
    whole = path.read_bytes()
    old = tmp_path / "old" / "pytorch_model.bin"
    for data in (whole[:-9], old.read_bytes()[:-9], old.read_bytes()[:90]):
        path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            checkpoint_index(path.parent)
        assert "\n" not in str(caught.value)


def test_the_index_of_a_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    index = checkpoint_index(tmp_path, "model.gguf")
    assert index["blk.0.attn_output.weight"].dtype == "Q8_0"
    source = resolve(str(tmp_path / "model.gguf"))
    assert source.index_digest == index_digest(index)


def test_a_base_is_told_from_other_models(tmp_path: Path, model_folder: Path) -> None:
    base = Base.of(resolve(str(model_folder)))
    assert base.differences(resolve(str(model_folder))) == []
    tiny_model(seed=1).save_pretrained(tmp_path / "trained")
    (found,) = base.differences(resolve(str(tmp_path / "trained")))
    assert found.startswith("contents (")
    tiny_model("qwen3, tied").save_pretrained(tmp_path / "other")
    first, second = base.differences(resolve(str(tmp_path / "other")))
    assert first.startswith("names, shapes or data types of its tensors")
    assert second.startswith("contents (")


def as_from_the_hub(folder: Path) -> ModelSource:
    return ModelSource("org/model", folder, None, "c" * 40)


def test_a_hub_model_is_told_from_a_folder_of_other_contents(
    tmp_path: Path, model_folder: Path
) -> None:
    """One side has a commit, the other has not: contents are compared all the same."""
    base = Base.of(as_from_the_hub(model_folder))
    shutil.copytree(model_folder, tmp_path / "copy")
    # What transformers does not load is no part of the contents.
    (tmp_path / "copy" / "consolidated.safetensors").write_bytes(b"the same once more")
    assert base.differences(resolve(str(tmp_path / "copy"))) == []
    tiny_model(seed=1).save_pretrained(tmp_path / "trained")
    trained = resolve(str(tmp_path / "trained"))
    (found,) = base.differences(trained)
    assert found.startswith("contents (")
    local = Base.of(trained)
    assert local.differences(as_from_the_hub(model_folder)) != []
    assert local.differences(as_from_the_hub(tmp_path / "trained")) == []


def test_what_an_old_file_cannot_tell_is_said_or_refused(
    tmp_path: Path, model_folder: Path
) -> None:
    local, notes = resolve(str(model_folder)), []
    known = Base.of(as_from_the_hub(model_folder))
    without = replace(known, contents=None)
    require_base(small_edit(without).base, local, force=False, emit=notes.append)
    (note,) = notes
    assert "contents cannot be compared" in note.text
    # Format 2 has no index either: then there is nothing to go by.
    bare = replace(without, index=None)
    with pytest.raises(SaveError, match="holds no digests of"):
        require_base(small_edit(bare).base, local, force=False, emit=notes.append)
    require_base(
        small_edit(bare).base, as_from_the_hub(model_folder), force=False, emit=notes.append
    )
    require_base(small_edit(known).base, local, force=False, emit=notes.append)
    assert len(notes) == 1


def test_damaged_checkpoints_are_one_line(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "many", max_shard_size="20KB")
    shard = tmp_path / "many" / weight_files(tmp_path / "many")[0][1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=f"{shard.name}: damaged"):
        checkpoint_index(tmp_path / "many")
    shard.unlink()
    with pytest.raises(ModelError, match=f"names {shard.name}, which is missing"):
        checkpoint_index(tmp_path / "many")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(ModelError, match="not a PyTorch file"):
        checkpoint_index(tmp_path / "old")
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match="holds no weights"):
        checkpoint_index(tmp_path / "none")
