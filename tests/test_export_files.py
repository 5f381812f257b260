"""Exporting a run needs the checkpoint's files only: no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from conftest import TEMPLATE
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.saving.adapter import save_model_adapter
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.store.directory import RunDirectory

pytest_plugins = ["cli_support"]


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)


def test_a_run_is_exported_as_the_loaded_model_would_be(
    finished_run: Path,
    model_folder: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = json.loads((finished_run / "result.json").read_text())["chosen"]["trial"]
    edit = RunDirectory(finished_run).edit(number)
    loaded = load(resolve(str(model_folder)), LoadOptions(dtypes=("float32",)))
    save_model(loaded, DescribedEdit(edit, ""), elsewhere / "expected")
    save_model_adapter(loaded, DescribedEdit(edit, ""), elsewhere / "ranks")
    monkeypatch.setattr(
        PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded")
    )
    assert main(["export", str(finished_run), "--save", "out", "--adapter", "adapter"]) == 0
    name = "model.safetensors"
    assert (elsewhere / "out" / name).read_bytes() == (elsewhere / "expected" / name).read_bytes()
    made = json.loads((elsewhere / "out" / "reproduce.json").read_text())
    assert made["made"] == "model"
    assert json.loads((elsewhere / "adapter" / "reproduce.json").read_text())["made"] == "adapter"
    expected = load_file(elsewhere / "ranks" / "adapter_model.safetensors")
    found = load_file(elsewhere / "adapter" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor)


def test_a_template_that_was_given_is_saved_along(
    finished_run: Path, elsewhere: Path, unloadable: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "mine.jinja").write_text(f"{TEMPLATE}{{# mine #}}")
    words = ["export", str(finished_run), "--chat-template", "mine.jinja", "--save"]
    assert main([*words, "out"]) == 0
    assert (elsewhere / "out" / "chat_template.jinja").read_text().endswith("{# mine #}")
    (elsewhere / "mine.jinja").unlink()
    assert main([*words, "none"]) == 2
    assert "mine.jinja" in capsys.readouterr().err
    assert not (elsewhere / "none").exists()
