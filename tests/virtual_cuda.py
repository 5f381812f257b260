"""What `torch.cuda` says where there are GPUs, for `virtual_devices`: counts, names, memory, clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from accelerate.utils import offload
from safetensors import safe_open
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


def whole_name(device: Any) -> Any:
    """`cuda:1` for the number 1, `cuda:0` for `cuda`; whatever else is given, as it is."""
    if type(device) is int:
        return torch.device(device)
    if isinstance(device, (str, torch.device)) and str(device) == "cuda":
        return torch.device(0)
    return device


class Move(torch.autograd.Function):
    """A move to another device that takes gradients back; PyTorch's own sees one device only, the CPU."""

    taking_back = False

    @staticmethod
    def forward(context: Any, one: torch.Tensor, device: Any, dtype: Any) -> torch.Tensor:
        context.place = one.device, one.dtype
        return torch.ops.aten._to_copy(one, device=device, dtype=dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        device, dtype = context.place
        Move.taking_back = True
        try:
            return torch.ops.aten._to_copy(gradient, device=device, dtype=dtype), None, None
        finally:
            Move.taking_back = False


class _ByName(TorchFunctionMode):
    """Gives devices their whole names, and moves what `torch.tensor` made where all modes see it."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        if "device" in named:
            named["device"] = whole_name(named["device"])
        if func is torch.Tensor.cuda:
            return args[0].to(torch.device(0), *args[1:], **named)
        if func is torch.Tensor.to:
            args = (args[0], *map(whole_name, args[1:]))
            if args[0].requires_grad and torch.is_grad_enabled() and not named.get("copy"):
                device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **named)
                if device is not None and device != args[0].device:
                    return Move.apply(args[0], device, dtype)
        if func in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return func(*args, **named).to(device)
        return func(*args, **named)


class _OpenedOnHost:
    """A safetensors file whose tensors go to a device by PyTorch's way; its own goes past all modes."""

    def __init__(self, path: str, framework: str = "pt", device: Any = "cpu") -> None:
        self._file, self._device = safe_open(path, framework=framework), device

    def __enter__(self) -> _OpenedOnHost:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name).to(self._device)


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
    yield mock.patch.object(offload, "safe_open", _OpenedOnHost)
    yield _ByName()
    accelerator = {
        "is_available": True,
        "device_count": count,
        "current_accelerator": torch.device("cuda"),
        "current_device_index": 0,
        "current_stream": SimpleNamespace(is_capturing=lambda: False),
        "synchronize": None,
    }
    for name, value in accelerator.items():
        yield mock.patch.object(torch.accelerator, name, _constant(value))
    # Weights are read in threads of their own otherwise, which see no mode.
    yield mock.patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"})
