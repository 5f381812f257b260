"""The data type on a CPU: measured where it may matter, kept where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch

import packed_models as packed
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.app.run import prepare
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings, gather
from excise.errors import ModelError
from excise.events import Emit, ignore
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.rate import Rate, fastest_first

DEFAULT = ("auto", "float16", "bfloat16", "float32")


def rates(half: float, single: float) -> Rate:
    return lambda dtype, device: single if dtype == torch.float32 else half


def never(dtype: torch.dtype, device: torch.device) -> float:
    raise AssertionError("nothing to measure")


@pytest.fixture
def half(tmp_path: Path) -> ModelSource:
    folder = tmp_path / "half"
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return resolve(str(folder))


def test_the_faster_type_goes_first(half: ModelSource) -> None:
    assert fastest_first(half, DEFAULT, rates(2.0, 1.0)) == DEFAULT
    assert fastest_first(half, DEFAULT, rates(1.0, 2.0)) == (
        "float32",
        "auto",
        "float16",
        "bfloat16",
    )


def test_what_was_asked_for_is_not_measured(half: ModelSource, model_folder: Path) -> None:
    assert fastest_first(half, ("bfloat16",), never) == ("bfloat16",)
    assert fastest_first(half, ("auto",), never) == ("auto",)
    assert fastest_first(half, ("bfloat16", "float32"), never) == ("bfloat16", "float32")
    assert fastest_first(half, ("auto", "bfloat16"), never) == ("auto", "bfloat16")
    assert fastest_first(resolve(str(model_folder)), DEFAULT, never) == DEFAULT


def test_no_larger_type_without_room(half: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(NamedTuple):
        available: int

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1000))
    assert fastest_first(half, DEFAULT, never) == DEFAULT


def test_a_run_keeps_the_type_that_it_had(
    half: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {
        "model": str(half.folder),
        "trials": 1,
        "startup_trials": 1,
        "max_new_tokens": 3,
        "batch_size": 6,
        "allow_absent": True,
        "run_dir": tmp_path / "run",
        **write_prompts(tmp_path / "prompts"),
    }
    settings: Settings = gather(flags, {}, None)
    monkeypatch.setattr(fastest_first, "__defaults__", (rates(1.0, 2.0),))
    run = prepare(settings, ignore)
    assert run.loaded.dtype == "float32"
    run.search()
    run.directory.close()
    monkeypatch.setattr(fastest_first, "__defaults__", (rates(2.0, 1.0),))
    assert load(half, LoadOptions(dtypes=DEFAULT)).dtype == "bfloat16"
    assert prepare(settings, ignore).loaded.dtype == "float32"


@pytest.mark.parametrize("how", ["plain", "packed while loading", "stored packed"])
def test_packed_weights_go_on_with_the_types_that_packing_decides(
    how: str, half: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The record holds the type of what is not packed, which is not always the one that products are in.
    if how == "stored packed":
        packed.mark(half.folder, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    quantization = "bnb_4bit" if how == "packed while loading" else "none"
    settings: Settings = gather(
        {
            "model": str(half.folder),
            "quantization": quantization,
            "run_dir": tmp_path / "run",
            **write_prompts(tmp_path / "prompts"),
        },
        {},
        None,
    )
    asked: list[object] = []

    def load_nothing(source: ModelSource, options: LoadOptions, emit: Emit) -> None:
        asked.append(options.dtypes)
        raise ModelError("enough")

    monkeypatch.setattr("excise.app.run.known_of", lambda directory: ("float16", None))
    monkeypatch.setattr("excise.app.model.load", load_nothing)
    with pytest.raises(ModelError, match="enough"):
        prepare(settings, ignore)
    assert asked == [("float16",) if how == "plain" else settings.dtypes]
