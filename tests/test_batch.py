"""A run that goes on keeps its batch on the same devices, and finds another one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_helpers import rewrite
from conftest import write_prompts
from excise.app.run import Run, prepare
from excise.config import Settings, gather
from excise.devices.memory import DeviceMemory, device_memory
from excise.engine import batch_size
from excise.events import Event, Note, ignore
from excise.experiment import settle
from excise.store.directory import read_json

Record = dict[str, Any]


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    flags = {
        "model": str(model_folder),
        "dtype": "float32",
        "trials": 1,
        "startup_trials": 1,
        "max_new_tokens": 3,
        "allow_absent": True,
        "run_dir": tmp_path / "run",
        **write_prompts(tmp_path / "prompts", 6),
    }
    return gather(flags, {}, None)


def record_of(settings: Settings) -> tuple[Path, Record]:
    assert settings.run_dir is not None
    path = settings.run_dir / "result.json"
    return path, read_json(path, "no record")


def changed(settings: Settings, change: Callable[[Record], object]) -> None:
    path, record = record_of(settings)
    change(record)
    rewrite(path, record)


def go_on(settings: Settings) -> tuple[Run, list[str]]:
    """What the run has when it is taken up again, and the notes that say why."""
    told: list[Event] = []
    run = prepare(settings, told.append)
    return run, [one.text for one in told if isinstance(one, Note)]


@pytest.fixture
def begun(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A run with one trial, whose record says 2 prompts at a time and 4 a pass; what is found anew."""
    found: list[int] = []
    real = settle.find_batch_size

    def counted(*arguments: Any, **named: Any) -> int:
        found.append(real(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(settle, "find_batch_size", counted)
    prepare(settings, ignore).search()

    def smaller(record: Record) -> None:
        record["batch_size"] = 2
        record["circumstances"]["rows"] = 4

    changed(settings, smaller)
    found.clear()
    return found


def test_on_the_same_device_it_is_kept(settings: Settings, begun: list[int]) -> None:
    assert len(record_of(settings)[1]["device"]) == 16
    run, notes = go_on(settings)
    assert (run.experiment.runner.slots, run.experiment.runner.rows) == (2, 4)
    assert begun == []
    assert not any("at a time" in note for note in notes)


def test_on_another_device_it_is_found_anew(settings: Settings, begun: list[int]) -> None:
    changed(settings, lambda record: record.update(device="0" * 16, candidates=3))
    run, notes = go_on(settings)
    assert begun == [run.experiment.runner.slots] == [6]
    assert run.experiment.runner.rows == 32
    assert any("on another device before" in note for note in notes)
    # How many are scored side by side decides what is proposed, and so stays.
    assert run.experiment.candidates == 3


def test_where_memory_is_short_it_is_found_anew(
    settings: Settings, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(device: torch.device) -> DeviceMemory:
        known = device_memory(device)
        return DeviceMemory(device, known.name, known.total, 1000)

    monkeypatch.setattr(batch_size, "device_memory", short)
    run, notes = go_on(settings)
    assert begun == [run.experiment.runner.slots] == [1]
    assert any("2 prompts at a time, as this run had before, do not fit" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (lambda hardware: None, False),
        (lambda hardware: hardware.update(device="another processor"), True),
        (lambda hardware: hardware.update(cuda="13.0", device="a GPU"), True),
        (lambda hardware: hardware.clear(), False),
    ],
    ids=["same", "other processor", "GPU", "not recorded"],
)
def test_a_run_of_an_excise_that_recorded_no_digest(
    settings: Settings, begun: list[int], change: Callable[[Record], object], anew: bool
) -> None:
    def former(record: Record) -> None:
        del record["device"]
        change(record["circumstances"]["hardware"])
        if not record["circumstances"]["hardware"]:
            del record["circumstances"]["hardware"]

    changed(settings, former)
    run, _ = go_on(settings)
    assert bool(begun) == anew
    assert run.experiment.runner.slots == (6 if anew else 2)
