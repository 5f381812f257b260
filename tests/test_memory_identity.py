"""A stored search of a model in memory goes on with the same template and quantisation only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import excise
from cli_helpers import rewrite
from conftest import tiny_model, tiny_tokenizer
from excise import Experiment, Prompts
from test_experiment import CONTROL, OPTIONS, TARGET


def search(store: Path, suffix: str = "", quantization: object = None) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.chat_template += suffix
    if quantization is not None:
        model.config.quantization_config = quantization
    prompts = Prompts.of(TARGET, CONTROL)
    Experiment(model, tokenizer, prompts, OPTIONS).search(trials=1, store=store)


def test_a_stored_search_does_not_go_on_with_another_template(tmp_path: Path) -> None:
    search(tmp_path / "run")
    search(tmp_path / "run")
    with pytest.raises(excise.RunError, match=r"other settings \(template_text: "):
        search(tmp_path / "run", "{# another #}")


def test_a_stored_search_does_not_go_on_with_another_quantisation(tmp_path: Path) -> None:
    search(tmp_path / "run", quantization={"quant_method": "x", "bits": 4})
    with pytest.raises(excise.RunError, match=r"quantization.bits: 4 there, 8 here"):
        search(tmp_path / "run", quantization={"quant_method": "x", "bits": 8})


def test_a_store_of_an_older_version_goes_on(tmp_path: Path) -> None:
    search(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("template_text", "quantization"):
        del content["settings"][name]
    rewrite(path, content)
    search(tmp_path / "run")
