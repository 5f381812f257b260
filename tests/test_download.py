"""What is downloaded of a repository: one set of weights, and the small files that belong to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from excise.checkpoint.download import main_files, small_files
from excise.errors import ModelError
from hub_stand_in import HubStandIn, run_python

FETCH = """
import shutil, sys
from excise.errors import ExciseError
from excise.checkpoint import source
{before}
for arguments in {calls!r}:
    try:
        found = source.resolve(*arguments[:2], code=arguments[2])
        print("HAVE", found.revision, *sorted(
            path.relative_to(found.folder).as_posix()
            for path in found.folder.rglob("*") if path.is_file()
        ))
    except ExciseError as error:
        print("ERROR", type(error).__name__, error)
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        yield stand_in


def fetched(
    hub: HubStandIn,
    home: Path,
    *calls: tuple[str, str | None, bool],
    before: str = "",
    **environment: str,
) -> list[str]:
    code = FETCH.format(calls=list(calls), before=before)
    done = run_python(code, hub.environment(home) | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def crowded(tmp_path: Path, model_folder: Path) -> Path:
    """A repository that holds the weights in shards, and once more in every way that is met."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model_folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[:9], "model-2-of-2.safetensors": names[9:]}
    for file, some in shards.items():
        save_file({name: tensors[name] for name in some}, folder / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, folder / "model.fp32.safetensors")
    # Packed, and cut in two: each part has less than half of the layers.
    packed = {
        name: one if one.dim() == 1 else one.to(torch.float8_e4m3fn)
        for name, one in tensors.items()
    } | {"model.embed_tokens.weight": tensors["model.embed_tokens.weight"].to(torch.float16)}
    for number, some in enumerate((names[:9], names[9:]), start=1):
        held = {name: packed[name] for name in some} | {f"scale{number}": torch.ones(1)}
        save_file(held, folder / f"int4-{number}.safetensors")
    save_file({"mtp.layers.0.x": torch.ones(3)}, folder / "model-mtp.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"not one")
    (folder / "original").mkdir()
    save_file(tensors, folder / "original" / "model.safetensors")
    (folder / "original" / "params.json").write_text("{}")
    for name in (
        *("consolidated.safetensors", "pytorch_model.bin", "model-Q8_0.gguf", "onnx/model.onnx"),
        *("tf_model.h5", "picture.png", "modeling_own.py", ".gitattributes"),
        *("LICENSE", "NOTICE.txt", "USE_POLICY.md", "license.pdf", "README.md", "tokenizer.model"),
        *("chat_template.jinja", "additional_chat_templates/tool.jinja"),
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return folder


KEPT = {
    *("LICENSE", "NOTICE.txt", "USE_POLICY.md", "license.pdf", "README.md", "tokenizer.model"),
    *("chat_template.jinja", "additional_chat_templates/tool.jinja"),
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"),
    "model-mtp.safetensors",
}


def test_one_set_of_weights_and_its_small_files_are_downloaded_and_code_where_it_is_trusted(
    hub: HubStandIn, crowded: Path, tmp_path: Path
) -> None:
    commit = hub.add_model("owner/crowded", crowded)
    home = tmp_path / "home"
    (line,) = fetched(hub, home, ("owner/crowded", None, False))
    assert line.split()[:2] == ["HAVE", commit]
    assert set(line.split()[2:]) == KEPT
    hub.requests.clear()
    first, second = fetched(
        hub, home, ("owner/crowded", None, False), ("owner/crowded", "main", True)
    )
    assert set(first.split()[2:]) == KEPT
    assert set(second.split()[2:]) == KEPT | {"modeling_own.py"}
    sent = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    # Headers of files that are not the weights are asked for each time; nothing else comes twice.
    assert {path.rsplit("/", 1)[1] for path in sent} <= {
        *("modeling_own.py", "model-mtp.safetensors", "damaged.safetensors"),
        *("int4-1.safetensors", "int4-2.safetensors"),
    }
    hub.stop()
    for line in fetched(
        hub, home, ("owner/crowded", None, False), ("owner/crowded", "main", False)
    ):
        assert line.split()[:2] == ["HAVE", commit]


def test_a_limit_on_requests_is_no_reason_to_stop_where_the_model_is_cached(
    hub: HubStandIn, model_folder: Path, tmp_path: Path
) -> None:
    commit = hub.add_model("owner/tiny", model_folder)
    fetched(hub, tmp_path / "home", ("owner/tiny", None, False))
    hub.refusals["/api/"] = (429, {"Retry-After": "9"})
    here, other = fetched(
        hub, tmp_path / "home", ("owner/tiny", None, False), ("owner/other", None, False)
    )
    assert here.split()[:2] == ["HAVE", commit]
    assert "try again in 9 seconds" in other
    assert other.endswith("models in the cache: owner/tiny")


def test_a_disk_without_room_is_said_before_anything_comes(
    hub: HubStandIn, model_folder: Path, tmp_path: Path
) -> None:
    hub.add_model("owner/tiny", model_folder)
    size = (model_folder / "model.safetensors").stat().st_size
    small = (
        "import types\n"
        "shutil.disk_usage = lambda place: types.SimpleNamespace(free=20_000, used=0, total=0)"
    )
    (line,) = fetched(hub, tmp_path / "home", ("owner/tiny", None, False), before=small)
    assert line.startswith("ERROR HubError owner/tiny: the disk is full: ")
    assert f"has 20,000 bytes free, {size:,} are needed" in line
    assert not any("model.safetensors" in path for _, path in hub.requests)


def test_weights_are_those_that_transformers_loads() -> None:
    many = ["model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "x/y.safetensors"]
    assert main_files("n", many) == (["model.safetensors"], None)
    indexed = ["model.safetensors.index.json", "model-1.safetensors", "pytorch_model.bin"]
    assert main_files("n", indexed) == ([], "model.safetensors.index.json")
    assert main_files("n", ["consolidated.safetensors", "pytorch_model.bin"]) == (
        ["pytorch_model.bin"],
        None,
    )
    assert main_files("n", ["b.safetensors", "a.safetensors", "c.bin"]) == (
        ["a.safetensors", "b.safetensors"],
        None,
    )
    with pytest.raises(
        ModelError, match=r"holds GGUF files only; download one \(hf download n a.gguf"
    ):
        main_files("n", ["a.gguf", "config.json"])
    with pytest.raises(ModelError, match="holds no weights"):
        main_files("n", ["sub/model.safetensors"])


def test_small_files_are_those_of_the_top_folder() -> None:
    names = [
        "config.json",
        "a/config.json",
        "NOTICE",
        "Licence-MIT",
        "x.py",
        "x.png",
        ".hidden.json",
    ]
    assert small_files(names, code=False) == ["Licence-MIT", "NOTICE", "config.json"]
    assert small_files(names, code=True) == ["Licence-MIT", "NOTICE", "config.json", "x.py"]


def test_an_index_that_names_what_is_not_there_is_the_repositorys_fault(
    hub: HubStandIn, crowded: Path, tmp_path: Path
) -> None:
    (crowded / "model-2-of-2.safetensors").unlink()
    hub.add_model("owner/crowded", crowded)
    (line,) = fetched(hub, tmp_path / "home", ("owner/crowded", None, False))
    assert "names model-2-of-2.safetensors, which is missing" in line


def test_what_an_interrupted_download_left_counts_as_nothing_while_the_hub_is_away(
    hub: HubStandIn, crowded: Path, tmp_path: Path
) -> None:
    hub.add_model("owner/crowded", crowded)
    hub.refusals["model-2-of-2"] = (403, {})
    call = ("owner/crowded", None, False)
    (line,) = fetched(hub, tmp_path / "home", call)
    assert line.startswith("ERROR HubError owner/crowded: downloading it: ")
    (line,) = fetched(hub, tmp_path / "home", call, HF_HUB_OFFLINE="1")
    assert line.startswith("ERROR HubError owner/crowded: HF_HUB_OFFLINE forbids")
    hub.refusals.clear()
    hub.requests.clear()
    (line,) = fetched(hub, tmp_path / "home", call)
    assert set(line.split()[2:]) == KEPT
    sent = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert not any(path.endswith("model-1-of-2.safetensors") for path in sent)
