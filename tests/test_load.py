"""Finding and loading models, and every way in which that can go wrong."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest
import torch

from conftest import TEMPLATE, tiny_model
from excise.checkpoint.source import resolve
from excise.checkpoint.tensors import read_safetensors
from excise.errors import ModelError
from excise.models.load import load
from excise.models.options import LoadOptions
from hub_stand_in import HubStandIn, run_python


def test_a_local_folder_loads_in_the_first_type_that_works(model_folder: Path) -> None:
    loaded = load(resolve(str(model_folder)), LoadOptions(dtypes=("float32",)))
    assert loaded.dtype == "float32"
    assert loaded.attempts == ()
    assert loaded.bytes == sum(p.numel() * 4 for p in tiny_model().parameters())


def test_a_type_that_overflows_is_passed_over_and_said_why(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "big"
    shutil.copytree(model_folder, folder)
    model = tiny_model()
    model.model.layers[1].mlp.down_proj.weight.data *= 1e6
    model.save_pretrained(folder)
    loaded = load(resolve(str(folder)), LoadOptions(dtypes=("float16", "float32")))
    assert loaded.dtype == "float32"
    assert len(loaded.attempts) == 1
    assert loaded.attempts[0].startswith("float16: ")
    assert "not numbers" in loaded.attempts[0]
    with pytest.raises(ModelError, match=r"could not be loaded \(float16: .*not numbers"):
        load(resolve(str(folder)), LoadOptions(dtypes=("float16",)))


def test_old_pytorch_files_load(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    loaded = load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/at/all", "no such folder"),
        ("./nowhere", "no such folder"),
        ("nowhere/model.gguf", "no such file"),
    ],
)
def test_no_such_model(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(name)


def test_folders_that_are_no_model(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match="name one of them"):
        resolve(str(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copyfile(model_folder / "config.json", empty / "config.json")
    with pytest.raises(ModelError, match="no weights"):
        resolve(str(empty))


def test_damaged_weights(model_folder: Path, tmp_path: Path) -> None:
    whole = (model_folder / "model.safetensors").read_bytes()
    read_safetensors(model_folder / "model.safetensors")
    for name, content, message in (
        ("truncated", whole[:-100], r"bytes, should be"),
        ("cut in the header", whole[:50], "header is longer"),
        ("empty", b"", "damaged"),
        ("noise", b"\xff" * 4000, "damaged"),
        ("no header", (20).to_bytes(8, "little") + b"this is not JSON at all", "damaged"),
    ):
        folder = tmp_path / name
        shutil.copytree(model_folder, folder)
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=message) as caught:
            load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))
        assert "model.safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_chat_template_and_one_from_a_file(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(model_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="--chat-template FILE"):
        load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    loaded = load(resolve(str(folder)), LoadOptions(dtypes=("float32",), chat_template=template))
    assert loaded.tokenizer.chat_template == TEMPLATE
    with pytest.raises(ModelError, match="chat_template="):
        load(
            resolve(str(folder)),
            LoadOptions(dtypes=("float32",), chat_template=tmp_path / "missing"),
        )


LOAD = textwrap.dedent(
    """
    from excise.errors import ExciseError
    from excise.models.load import load
    from excise.models.options import LoadOptions
    from excise.checkpoint.source import resolve
    try:
        source = resolve("someone/tiny")
        loaded = load(source, LoadOptions(dtypes=("float32",)))
        print("LOADED", source.revision, loaded.dtype)
    except ExciseError as error:
        print("ERROR", type(error).__name__, error)
    """
)


def test_a_hub_model_is_fetched_pinned_and_used_from_the_cache_when_the_hub_is_gone(
    model_folder: Path, tmp_path: Path
) -> None:
    with HubStandIn() as hub:
        commit = hub.add_model("someone/tiny", model_folder)
        first = run_python(LOAD, hub.environment(tmp_path / "home"))
        assert first.stdout.strip() == f"LOADED {commit} float32", first.stderr
        hub.stop()
        again = run_python(LOAD, hub.environment(tmp_path / "home"))
        assert again.stdout.strip() == f"LOADED {commit} float32", again.stderr


def test_no_hub_in_reach_says_so_and_names_what_is_cached(
    model_folder: Path, tmp_path: Path
) -> None:
    with HubStandIn() as hub:
        hub.add_model("someone/other", model_folder)
        environment = hub.environment(tmp_path / "home")
        fetched = run_python(LOAD.replace("someone/tiny", "someone/other"), environment)
        assert "LOADED" in fetched.stdout, fetched.stderr
        missing = run_python(LOAD, environment)
        assert missing.stdout.startswith("ERROR ModelError someone/tiny: no such folder here")
        hub.stop()
        gone = run_python(LOAD, environment)
        assert gone.stdout.startswith("ERROR HubError someone/tiny: the hub is out of reach")
        assert "someone/other" in gone.stdout


def test_a_hub_model_is_kept_where_no_links_can_be_made(model_folder: Path, tmp_path: Path) -> None:
    """On Windows only administrators make links, and some disks have none at all."""
    refused = (
        "import os\n"
        "def refused(*arguments, **options): raise OSError(1314, 'a privilege is not held')\n"
        "os.symlink = os.link = refused\n"
    )
    with HubStandIn() as hub:
        commit = hub.add_model("someone/tiny", model_folder)
        first = run_python(refused + LOAD, hub.environment(tmp_path / "home"))
        assert commit in first.stdout, first.stderr
        hub.stop()
        again = run_python(refused + LOAD, hub.environment(tmp_path / "home"))
        assert again.stdout == first.stdout, again.stderr
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_symlink()]
