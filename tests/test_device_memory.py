"""Devices as they are told: those that a model may lie on, those that it lies on, and their memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from conftest import tiny_model
from excise.app.model import load_options
from excise.cli.describe import describe
from excise.config import gather
from excise.devices import memory as device_memory
from excise.devices.memory import (
    HOST,
    DeviceMemory,
    cache_device,
    devices_for,
    devices_of,
    peak_memory,
)
from excise.engine import batch_size
from excise.errors import ModelError
from excise.models.events import ModelLoaded
from excise.models.load import devices_found
from excise.models.weights import bytes_by_device, stored_bytes
from spread import spread
from virtual_devices import VirtualDevices

GIB = 2**30


def settings_of(**given: object) -> object:
    return gather({"model": "m", **given}, {}, None)


def test_devices_that_a_model_may_come_to_lie_on() -> None:
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    with VirtualDevices(2):
        assert devices_for("auto", None) == [first, second]
        assert devices_for("balanced", None) == [first, second]
        assert devices_for("cuda", None) == [first]
        assert devices_for("cuda:1", None) == [second]
        assert devices_for("cpu", None) == [HOST]
        assert devices_for("auto", {1: GIB, "cpu": GIB}) == [second, HOST]
        with pytest.raises(ModelError, match=r"device=cuda:2.*it has cpu, cuda:0, cuda:1"):
            devices_for("cuda:2", None)
    assert devices_for("auto", None) == [HOST]
    with pytest.raises(ModelError, match=r"device=mps: this machine has no such device"):
        devices_for("mps", None)


def test_each_device_is_told_with_its_memory_and_its_limit(empty_directory: None) -> None:
    with VirtualDevices(2, memory=8 * GIB):
        both = devices_found(load_options(settings_of()))
        one = devices_found(load_options(settings_of(device="cuda:1")))
        limited = devices_found(
            load_options(settings_of(max_memory=("1=2GiB",), offload_folder="o"))
        )
    assert [(each.device, each.memory, each.limit) for each in both] == [
        ("virtual GPU", 8 * GIB, None)
    ] * 2
    assert len(one) == 1
    assert [line.text for each in limited for line in describe(each)] == [
        "virtual GPU, 8.0 GiB (2.0 GiB for weights)"
    ]
    (host,) = devices_found(load_options(settings_of(device="cpu")))
    threads = torch.get_num_threads()
    assert host.device == f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def test_devices_that_a_model_lies_on_and_what_was_held_there(tmp_path: Path) -> None:
    assert devices_of(tiny_model()) == [HOST]
    assert list(peak_memory([HOST])) == ["cpu"]
    assert set(bytes_by_device(tiny_model())) == {"cpu"}
    with VirtualDevices(2, memory=8 * GIB):
        model = spread(tiny_model(), 0, 1)
        assert devices_of(model) == [torch.device("cuda", 0), torch.device("cuda", 1)]
        assert peak_memory(devices_of(model)) == {"cuda:0": 4 * GIB, "cuda:1": 4 * GIB}
        places = bytes_by_device(model)
        assert set(places) == {"cuda:0", "cuda:1"}
        assert sum(places.values()) == stored_bytes(tiny_model())
    with VirtualDevices():
        model = spread(tiny_model(), 0, "cpu")
        assert devices_of(model) == [torch.device("cuda", 0), HOST]
        assert set(bytes_by_device(model)) == {"cuda:0", "offloaded"}
        assert set(peak_memory(devices_of(model))) == {"cuda:0", "cpu"}


def test_where_weights_lie_is_told_if_it_is_not_one_place() -> None:
    def told(places: dict[str, int]) -> str:
        (line,) = describe(ModelLoaded("m", "float16", 3 * GIB, 1.0, (), places))
        return line.text

    assert told({"cpu": 3 * GIB}).endswith("1.0 s")
    assert told({"cuda:0": 2 * GIB, "offloaded": GIB}).endswith("cuda:0 2.0 GiB, offloaded 1.0 GiB")


def test_memory_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5 * GIB)
    host = SimpleNamespace(total=16 * GIB, available=10 * GIB)
    monkeypatch.setattr(device_memory.psutil, "virtual_memory", lambda: host)
    mps = torch.device("mps", 0)
    found = device_memory.device_memory(mps)
    assert (found.total, found.free) == (12 * GIB, 7 * GIB)
    host.available = 2 * GIB
    assert device_memory.device_memory(mps).free == 2 * GIB
    assert peak_memory([mps]) == {"mps:0": 5 * GIB}


def test_the_device_with_least_room_for_its_share_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 6 * GIB, 1: GIB}
    with VirtualDevices(2):
        model = spread(tiny_model(), 0, 1)
        monkeypatch.setattr(
            batch_size,
            "device_memory",
            lambda device: DeviceMemory(device, "GPU", 8 * GIB, free.get(device.index, 0)),
        )
        sizes = bytes_by_device(model)
        share = sizes["cuda:1"] / sum(sizes.values())
        assert batch_size.free_for_batch(model) == pytest.approx(GIB / share)
        free[0] = 2**20
        assert batch_size.free_for_batch(model) == pytest.approx(2**20 / (1 - share))


def test_what_is_kept_lies_on_the_device_if_it_takes_little_of_it() -> None:
    with VirtualDevices(memory=100):
        there = torch.device("cuda", 0)
        assert cache_device(10, there) == there
        assert cache_device(11, there) == HOST
    assert cache_device(10**15, HOST) == HOST
