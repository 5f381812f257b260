"""Models of strangers: what their files could make transformers or excise do beside loading numbers."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from cli_helpers import configured, failure
from conftest import tiny_model, tiny_tokenizer
from excise.checkpoint.source import resolve
from excise.errors import ModelError
from excise.models.load import load
from excise.models.options import LoadOptions

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def test_an_adapter_beside_a_model_does_not_choose_what_is_loaded(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/else"}
    (model / "adapter_config.json").write_text(json.dumps(adapter))
    assert "holds an adapter beside the model" in failure(["inspect", str(model)], capsys)


@pytest.mark.parametrize("name", ["../other.safetensors", "/x.safetensors", "..\\x.safetensors"])
def test_an_index_names_files_of_its_own_folder(
    model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(model / "model.safetensors", model.parent / "other.safetensors")
    (model / "part.safetensors").write_bytes((model.parent / "other.safetensors").read_bytes())
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "which is not a file of this folder" in failure(["inspect", str(model)], capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "somebody/kernel"},
        {"experts_implementation": {"": "somebody/kernel"}},
        {"text_config": {"_attn_implementation": "somebody/kernel:v1"}},
    ],
)
def test_a_kernel_out_of_the_hub_is_code(
    model: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    configured(model, **change)
    for command in (["inspect", str(model)], ["inspect", str(model), "--config-only"]):
        line = failure(command, capsys)
        assert "names a kernel, somebody/kernel" in line
        assert line.endswith("give trust_remote_code (--trust-remote-code) to run it")


def test_more_layers_than_any_model_has(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(model, num_hidden_layers=10**9)
    line = failure(["inspect", str(model), "--config-only"], capsys)
    assert "num_hidden_layers is 1000000000" in line


class _Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.place,)


def test_a_pickle_that_would_run_code_is_not_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ran = tmp_path / "pickled", tmp_path / "ran"
    tiny_model().config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    torch.save({"lm_head.weight": _Evil(ran)}, folder / "pytorch_model.bin")
    for command in (["inspect", str(folder)], ["diff", str(folder), str(folder)]):
        failure(command, capsys)
    assert not ran.exists()


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"],
)
def test_a_chat_template_runs_in_a_sandbox(
    model: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "chat_template.jinja").write_text(template)
    assert "chat template" in failure(["inspect", str(model)], capsys)


def test_a_chat_template_is_a_file_of_some_size(model: Path) -> None:
    for path in (Path("/dev/zero"), model):
        with pytest.raises(ModelError, match="not a file, or too large for a template"):
            load(resolve(str(model)), LoadOptions(chat_template=str(path)))


def test_offloading_writes_over_nothing(
    model: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["inspect", str(model), "--max-memory", "cpu=1GiB", "--offload-folder"]
    assert "letter.txt, which is not an offloaded weight" in failure(
        [*arguments, str(mine)], capsys
    )
    (mine / "weight.safetensors").symlink_to(mine / "letter.txt")
    (mine / "letter.txt").rename(mine / "letter.safetensors")
    assert "holds weight.safetensors, which is not" in failure([*arguments, str(mine)], capsys)


def test_a_gguf_file_declares_no_more_than_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a.b")
    path = tmp_path / "huge.gguf"
    for tail in (
        struct.pack("<IIQ", 9, 0, 2**60),
        struct.pack("<IIQ", 9, 8, 2**60),
        struct.pack("<IQ", 8, 2**60),
        struct.pack("<IIQ", 9, 9, 2) * 9,
    ):
        path.write_bytes(head + tail + bytes(64))
        assert "damaged GGUF file" in failure(["inspect", str(path)], capsys)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(64))
    assert "damaged GGUF file" in failure(["inspect", str(path)], capsys)
