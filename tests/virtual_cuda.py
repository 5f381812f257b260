"""What `torch.cuda` says where there are GPUs, for `virtual_devices`: counts, names, memory, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


class Event:
    """A mark in a queue of work that has always been done."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, stream: object = None) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds."""
        return 1e3 * (other._at - self._at)


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


class _Device(type):
    """Makes `torch.device(1)` the second GPU, which a build without CUDA refuses to know."""

    _own = torch.device

    def __call__(cls, *given: Any, **named: Any) -> torch.device:
        if len(given) == 1 and not named and type(given[0]) is int:
            return cls._own("cuda", given[0])
        return cls._own(*given, **named)

    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, cls._own)


class _Named(metaclass=_Device):
    """What `torch.device` is within."""


class _ByName(TorchFunctionMode):
    """Names devices that are given by number, and moves what `torch.tensor` made where all modes see it."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        if type(named.get("device")) is int:
            named["device"] = torch.device(named["device"])
        if func is torch.Tensor.to and len(args) > 1 and type(args[1]) is int:
            args = (args[0], torch.device(args[1]), *args[2:])
        if func in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return func(*args, **named).to(device)
        return func(*args, **named)


def patches(count: int, memory: int) -> Iterator[AbstractContextManager[Any]]:
    """What has to be in force so that PyTorch and its users see `count` GPUs of `memory` bytes."""
    properties = SimpleNamespace(name="virtual GPU", total_memory=memory, major=8, minor=0)
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": count,
        "current_device": 0,
        "mem_get_info": (memory, memory),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": memory // 2,
        "reset_peak_memory_stats": None,
        "get_device_properties": properties,
        "get_device_name": properties.name,
        "get_device_capability": (8, 0),
        "is_bf16_supported": True,
        "empty_cache": None,
        "synchronize": None,
        "set_device": None,
        "current_stream": None,
        "device": nullcontext(),
    }
    for name, value in answers.items():
        yield mock.patch.object(torch.cuda, name, _constant(value))
    yield mock.patch.object(torch.cuda, "Event", Event)
    yield mock.patch.object(torch, "device", _Named)
    yield _ByName()
    accelerator = {
        "is_available": True,
        "device_count": count,
        "current_accelerator": torch.device("cuda"),
        "current_device_index": 0,
        "synchronize": None,
    }
    for name, value in accelerator.items():
        yield mock.patch.object(torch.accelerator, name, _constant(value))
    # Weights are read in threads of their own otherwise, which see no mode.
    yield mock.patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"})
