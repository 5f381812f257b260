"""Files as somebody gave them: pointers in their place, damaged ones, and damaged ones that nobody needs."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

import packed_models as packed
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.checkpoint.source import resolve
from excise.checkpoint.tensors import read_safetensors
from excise.cli.main import main
from excise.errors import ModelError, first_line
from excise.models.load import load
from excise.models.options import LoadOptions

pytestmark = pytest.mark.filterwarnings("ignore")
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
DAMAGED = (b"", b'{"a": ', b"[]", b"null", b"\xff\xfe\x00\x01", b"[" * 100_000)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "shards"
    tiny_model().save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder)
    return folder


def line(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(resolve(str(path)), LoadOptions(dtypes=("float32",)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", INDEX, "model-00001-of-00008.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    ],
)
def test_a_git_lfs_pointer_is_called_one(name: str, shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    assert (folder / name).exists()
    (folder / name).write_bytes(POINTER)
    said = line(folder)
    assert f"{name}: is a Git LFS pointer in place of the file" in said
    assert said.endswith("git lfs pull")


def test_pointers_in_place_of_other_forms_of_weights(shards: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(shards, tmp_path / "old"))
    for path in old.glob("model*"):
        path.unlink()
    torch.save(tiny_model().state_dict(), old / "pytorch_model.bin")
    (old / "pytorch_model.bin").write_bytes(POINTER)
    assert "pytorch_model.bin: is a Git LFS pointer" in line(old)
    (tmp_path / "model.gguf").write_bytes(POINTER)
    assert "model.gguf: is a Git LFS pointer" in line(tmp_path / "model.gguf")


def test_a_vocabulary_that_is_a_pointer(shards: Path, tmp_path: Path) -> None:
    """It would be read as one, and tokens be made of its words."""
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    (folder / "vocab.txt").write_bytes(POINTER)
    load(
        resolve(str(folder)), LoadOptions(dtypes=("float32",))
    )  # nobody needs it beside tokenizer.json
    (folder / "tokenizer.json").unlink()
    assert "vocab.txt: is a Git LFS pointer" in line(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply", "p.safetensors", "MODEL", "out"],
        ["show", "p.safetensors"],
        ["reproduce", "p.json", "out"],
        ["MODEL", "--target", "p.txt", "--control", "p.txt", "--yes"],
        ["MODEL", "--target", "p.parquet", "--control", "p.txt", "--yes"],
    ],
)
def test_pointers_in_place_of_edits_records_and_prompts(
    arguments: list[str],
    model_folder: Path,
    tmp_path: Path,
    empty_directory: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for ending in ("safetensors", "json", "txt", "parquet"):
        (tmp_path / f"p.{ending}").write_bytes(POINTER)
    words = [str(model_folder) if word == "MODEL" else word for word in arguments]
    assert main(words) == 2
    assert "is a Git LFS pointer in place of the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", INDEX, "tokenizer.json", "tokenizer_config.json"],
)
@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named_in_one_line(
    name: str, content: bytes, shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    (folder / name).write_bytes(content)
    said = line(folder)
    assert name in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "abc"},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 0},
        {"hidden_act": "nope"},
        {"text_config": 5},
        {"auto_map": 3},
        {"quantization_config": 3},
        {"rope_parameters": "x"},
        {"model_type": "foo"},
        {"model_type": None},
        {"model_type": ["llama"]},
        {"architectures": 3},
        {"architectures": [["LlamaForCausalLM"]]},
    ],
    ids=str,
)
def test_a_configuration_of_wrong_values(
    change: dict[str, object],
    shards: Path,
    tmp_path: Path,
    empty_directory: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    line(folder)
    sets = [
        f"--{name.replace('_', '-')}={path}" for name, path in write_prompts(tmp_path / "p").items()
    ]
    for words in (["inspect", "m"], ["m", *sets, "--yes", "--run-dir=run", "--save=out"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\nexcise: ") <= 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["</s>", [["2"]], {"id": 2}, True, 1.5], ids=str)
def test_an_end_of_answers_that_is_no_token(end: object, shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": end}))
    assert "generation_config.json: eos_token_id is not a token id" in line(folder)


def test_what_nobody_needs_may_be_damaged(shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "m"))
    for content in (*DAMAGED, POINTER):
        for name in (
            *("stray.safetensors", "consolidated.safetensors", "pytorch_model.bin", "Q4.gguf"),
            *("preprocessor_config.json", "trainer_state.json", "README.md", "vocab.json"),
        ):
            (folder / name).write_bytes(content)
        assert load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).notes == ()


def test_the_weights_that_transformers_loads_are_those_that_are_looked_at(tmp_path: Path) -> None:
    """A folder of PyTorch weights in which other safetensors lie is one of PyTorch weights."""
    folder = packed.save("llama", tmp_path / "m")
    model = load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).model
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "stray.safetensors").write_bytes(b"")
    again = load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).model
    assert torch.equal(again(packed.IDS).logits, model(packed.IDS).logits)


def test_an_announcement_is_told_with_what_it_announces() -> None:
    assert first_line(ValueError("field 'x':\n    TypeError: no int\nmore")) == (
        "field 'x': TypeError: no int"
    )
    assert first_line(ValueError("so:")) == "so:"
    assert first_line(ValueError("")) == "ValueError"


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "X9", "shape": ["two"], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": ["pt"]},
        {"a": {"dtype": "X9", "shape": [2], "data_offsets": [8, 0]}, "b": {}},
    ],
)
def test_headers_of_weights_that_say_what_cannot_be(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged weights file"):
        read_safetensors(path)
