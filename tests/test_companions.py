"""What lies beside a checkpoint's weights: copies of them stay behind, what is no copy goes along.

Names of files say nothing: a draft head is called `model-mtp.safetensors`, a copy of the weights anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.checkpoint.copies import draft_tensors
from excise.checkpoint.folder import open_checkpoint
from excise.cli.main import main
from excise.edits.edit import Edit

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def weights(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def as_the_maker_names_them(tensors: Tensors) -> Tensors:
    """Names of Meta's and Mistral's own format."""
    parts = {
        "model.embed_tokens": "tok_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
        "model.": "",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def renamed(name: str) -> str:
        for theirs, own in parts.items():
            name = name.replace(theirs, own)
        return name

    return {renamed(name): tensor.contiguous() for name, tensor in tensors.items()}


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Matrices cut as tensor parallelism cuts them."""
    cut = {
        name: tensor.chunk(2, dim=tensor.dim() - 1) if tensor.dim() > 1 else (tensor, tensor)
        for name, tensor in tensors.items()
    }
    first, second = (
        {name: parts[index].contiguous() for name, parts in cut.items()} for index in (0, 1)
    )
    return first, second


def as_gguf(tensors: Tensors, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    names = as_the_maker_names_them(tensors)
    for name, tensor in names.items():
        own = name.replace("layers.", "blk.").replace("tok_embeddings", "token_embd")
        writer.add_tensor(own, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_eight_bits(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and "layers" in name:
            found[name] = tensor.to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = torch.ones(1, 1)
        else:
            found[name] = tensor
    return found


def written(path: Path, tensors: Tensors) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    elif path.suffix == ".gguf":
        as_gguf(tensors, path)
    else:
        torch.save(tensors, path)
    return path


COPIES: dict[str, Callable[[Tensors], Tensors]] = {
    "original/model.safetensors": dict,
    "pytorch_model.bin": dict,
    "weights-of-step-500.pt": dict,
    "some.safetensors": lambda held: {name: held[name] for name in list(held)[:3]},
    "without_prefix.safetensors": lambda held: {
        name.removeprefix("model."): one for name, one in held.items()
    },
    "consolidated.safetensors": as_the_maker_names_them,
    "original/consolidated.pth": as_the_maker_names_them,
    "fp8.safetensors": in_eight_bits,
    "small.gguf": dict,
}


@pytest.mark.parametrize("name", COPIES)
def test_the_weights_once_more_are_left_out_whatever_they_are_called(
    folder: Path, name: str
) -> None:
    written(folder / name, COPIES[name](weights(folder)))
    found = open_checkpoint(folder)
    assert found.companions.left_out == (Path(name),)
    assert Path(name) not in found.companions.copied
    assert not found.companions.weights


def test_copies_in_several_files_are_judged_together_and_their_index_goes_with_them(
    folder: Path,
) -> None:
    for number, part in enumerate(halves(as_the_maker_names_them(weights(folder)))):
        written(folder / "original" / f"consolidated.0{number}.pth", part)
    names = sorted(weights(folder))
    shards = {"a-1.safetensors": names[:9], "a-2.safetensors": names[9:]}
    for file, some in shards.items():
        written(folder / "again" / file, {name: weights(folder)[name] for name in some})
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (folder / "again" / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "original" / "params.json").write_text("{}")
    found = open_checkpoint(folder)
    assert [path.as_posix() for path in found.companions.left_out] == [
        *("again/a-1.safetensors", "again/a-2.safetensors", "again/model.safetensors.index.json"),
        *("original/consolidated.00.pth", "original/consolidated.01.pth"),
    ]
    assert Path("original/params.json") in found.companions.copied


def head(layer: int = 0, width: int = 32) -> Tensors:
    return {f"mtp.layers.{layer}.mlp.down_proj.weight": torch.randn(width, 48)}


OWN: dict[str, Callable[[Tensors], Tensors]] = {
    "model-mtp.safetensors": lambda held: head(),
    "model_extra_tensors.safetensors": lambda held: head(),
    "mtp.safetensors": lambda held: head() | {"model.norm.weight": held["model.norm.weight"]},
    "pytorch_model.extra.bin": lambda held: head(),
    "consolidated.mtp.safetensors": lambda held: head(),
    "consolidated.02.pth": lambda held: head(),
    "model.pt": lambda held: head(),
    "mmproj.gguf": lambda held: {
        f"v.layers.{layer}.weight": torch.ones(8, 8) for layer in range(9)
    },
    "original/draft.safetensors": lambda held: {
        name: torch.randn(*(max(1, size // 2) for size in one.shape)) for name, one in held.items()
    },
    "model.eagle.safetensors": lambda held: {
        "layers.0.mlp.down_proj.weight": torch.randn(32, 48),
        "fc.weight": torch.randn(32, 64),
    },
}


@pytest.mark.parametrize("name", OWN)
def test_what_holds_other_tensors_goes_along_untouched(
    folder: Path, name: str, edit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(folder / name, OWN[name](weights(folder)))
    out = folder.parent / "out"
    assert main(["apply", str(edit), str(folder), str(out)]) == 0
    assert (out / name).read_bytes() == path.read_bytes()
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out" not in shown
    assert f"{name}: copied without edits: the model has none" in shown


@pytest.fixture
def edit(model: Path, tmp_path: Path) -> Path:
    from test_apply import save_edit

    loaded = tiny_model()
    names = examine(loaded).names
    generator = torch.Generator().manual_seed(3)
    u = torch.nn.functional.normalize(torch.randn(len(names), 32, generator=generator), dim=1)
    made = Edit("orthogonal", names, u, u, torch.ones(len(names)))
    return save_edit(made, model, tmp_path / "edit.safetensors")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_writers_tensor_in_a_side_file_is_edited_as_in_the_weights(
    folder: Path,
    edit: Path,
    ending: str,
    dtype: torch.dtype,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, other = (f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2))
    held = weights(folder)
    # The second has a writer's name and shape, and other numbers: a head of its own.
    side = head() | {name: held[name].to(dtype), other: torch.randn(held[other].shape)}
    path = written(folder / "sub" / f"side.{ending}", side)
    out = folder.parent / "out"
    assert main(["apply", str(edit), str(folder), str(out)]) == 0
    there = out / "sub" / path.name
    after = load_file(there) if ending == "safetensors" else torch.load(there)
    edited = weights(out)[name]
    assert not torch.equal(edited, held[name])
    slack = 2e-2 if dtype is torch.bfloat16 else 1e-6
    torch.testing.assert_close(after[name].float(), edited, rtol=slack, atol=slack)
    for untouched in side.keys() - {name}:
        assert torch.equal(after[untouched], side[untouched])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"sub/side.{ending}: edited in 1 tensors, which the model also has" in shown


def test_a_draft_head_in_the_weights_themselves_is_said(
    folder: Path, edit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behind = "model.layers.4.mlp.down_proj.weight"
    save_file(
        weights(folder) | {behind: torch.ones(32, 48)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    out = folder.parent / "out"
    assert main(["apply", str(edit), str(folder), str(out), "--force"]) == 0
    assert torch.equal(weights(out)[behind], torch.ones(32, 48))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"the draft head (1 tensors, such as {behind}) is copied without edits" in shown


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b'{"weight_map": 3}', b"\xff"])
def test_what_only_looks_like_an_index_goes_along(folder: Path, content: bytes) -> None:
    (folder / "other.index.json").write_bytes(content)
    assert Path("other.index.json") in open_checkpoint(folder).companions.copied


def test_draft_heads_are_told_by_name_or_by_their_place_behind_the_last_layer() -> None:
    names = ["model.layers.0.x", "model.layers.1.x", "model.layers.2.x", "vision.layers.2.x"]
    assert draft_tensors(names, 2) == ["model.layers.2.x"]
    assert draft_tensors(names, 0) == []
    own = ["mtp.fc.weight", "model.mtp_block.x", "nextn.0.x", "empty_tensor", "drafty.x"]
    assert draft_tensors(own, 0) == own[:3]


def test_code_that_was_not_downloaded_is_missed_in_a_note(
    folder: Path, edit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "config.json"
    own = {"AutoConfig": "configuration_own.C", "AutoModel": "o/r--modeling_other.M"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": own}))
    out = folder.parent / "out"
    assert main(["apply", str(edit), str(folder), str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Python files that are missing here (configuration_own.py)" in shown
    (folder / "configuration_own.py").write_text("")
    assert main(["apply", str(edit), str(folder), str(out.with_name("again"))]) == 0
    assert "Python files" not in capsys.readouterr().out
    assert (out.with_name("again") / "configuration_own.py").is_file()
