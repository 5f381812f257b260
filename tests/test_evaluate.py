"""Two models compared: one is in memory at a time."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from conftest import write_prompts
from excise.app import model as loading
from excise.app.before_after import Subject
from excise.app.evaluate import evaluate
from excise.checkpoint import download
from excise.checkpoint.download import Snapshot
from excise.config import gather
from excise.errors import ModelError
from excise.events import ignore
from excise.models.load import LoadedModel, load


@pytest.mark.parametrize("spread", [False, True], ids=["whole", "spread by accelerate"])
def test_the_first_model_is_gone_before_the_second_is_loaded(
    spread: bool,
    model_folder: Path,
    tmp_path: Path,
    empty_directory: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Hooks of accelerate hold a model in cycles of references, and nobody says when those are collected.
    models: list[weakref.ref[PreTrainedModel]] = []
    alive: list[int] = []

    def watched(*arguments: Any, **named: Any) -> LoadedModel:
        alive.append(sum(model() is not None for model in models))
        loaded = load(*arguments, **named)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(loading, "load", watched)
    flags = write_prompts(tmp_path / "prompts", 4)
    given = {"model": str(model_folder), "max_new_tokens": 2, "dtype": "float32", **flags}
    if spread:
        folder = str(tmp_path / "offloaded")
        given |= {"max_memory": ("cpu=40KB",), "offload_folder": folder}
    gc.disable()
    try:
        evaluate(Subject.of_models(gather(given, {}, None), str(model_folder)), ignore)
    finally:
        gc.enable()
    assert alive == [0, 0]


def test_the_python_files_of_both_models_are_downloaded_if_they_may_run(
    model_folder: Path, tmp_path: Path, empty_directory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded: list[tuple[str, bool]] = []

    def from_hub(name: str, revision: str | None, *, weights: bool, code: bool) -> Snapshot:
        downloaded.append((name, code))
        if name == "owner/original":
            raise ModelError("unreachable")
        return Snapshot("0" * 40, model_folder)

    monkeypatch.setattr(download, "download", from_hub)
    given = {"model": "owner/edited", "trust_remote_code": True, **write_prompts(tmp_path / "p", 4)}
    with pytest.raises(ModelError, match="unreachable"):
        evaluate(Subject.of_models(gather(given, {}, None), "owner/original"), ignore)
    assert downloaded == [("owner/edited", True), ("owner/original", True)]
