"""The devices of a model and of settings: where inputs go, where modules compute, names and memory.

PyTorch has a module for each kind of accelerator; only this module chooses between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from excise.errors import ModelError
from excise.system.platform import peak_host_memory
from excise.undocumented import hook_of

HOST = torch.device("cpu")
_WITH_COUNTERS = ("cuda", "xpu")
"""Kinds of devices whose modules of PyTorch count free and allocated memory, under the same names."""
_KEPT_SHARE = 0.1
"""Largest share of a device's free memory for tensors that could also stay on the host."""


@dataclass(frozen=True)
class DeviceMemory:
    """A device. name: for people. total, free: bytes; free counts other processes too."""

    device: torch.device
    name: str
    total: int
    free: int


def device_memory(device: torch.device) -> DeviceMemory:
    """Name and memory of a device; the host's memory for kinds that PyTorch cannot query."""
    if device.type in _WITH_COUNTERS:
        backend = getattr(torch, device.type)
        free, total = backend.mem_get_info(device)
        return DeviceMemory(device, backend.get_device_properties(device).name, total, free)
    host = psutil.virtual_memory()
    if device.type == "mps":
        # Memory is shared with the host; the system limits the GPU's part.
        total = torch.mps.recommended_max_memory()
        free = min(total - torch.mps.driver_allocated_memory(), host.available)
        return DeviceMemory(device, "Apple GPU", total, max(0, free))
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    name = cpu if device == HOST else str(device)
    return DeviceMemory(device, name, host.total, host.available)


def cache_device(size: int, device: torch.device) -> torch.device:
    """Where to keep `size` bytes that `device` uses often: on the device if it has room, else on the host."""
    if device.type == "cpu" or size <= _KEPT_SHARE * device_memory(device).free:
        return device
    return HOST


def peak_memory(devices: Iterable[torch.device]) -> Mapping[str, int]:
    """The process's peak memory so far, in bytes, by device: "cpu", "cuda:0", …"""
    peaks: dict[str, int] = {}
    for device in devices:
        if device.type in _WITH_COUNTERS:
            peaks[str(device)] = getattr(torch, device.type).max_memory_allocated(device)
        elif device.type == "mps":
            # MPS records no peak; the driver's memory shrinks only when caches are emptied.
            peaks[str(device)] = torch.mps.driver_allocated_memory()
        else:
            peaks[str(device)] = peak_host_memory()
    return peaks


def devices_for(device: str, max_memory: Mapping[int | str, int] | None) -> list[torch.device]:
    """The devices that the settings `device` and `max_memory` allow for a model; at least one.

    Raises ModelError if there is no such device on this machine.
    """
    if max_memory:
        return [_existing(key, "max_memory", f"{key}=…", f"{key}: ") for key in max_memory]
    if device in _SPREADING:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.device("cuda", index) for index in range(count)] or [HOST]
    return [_existing(device, "device", device)]


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps of transformers that spread the model over all accelerators."""


def _existing(device: int | str, setting: str, value: str, which: str = "") -> torch.device:
    """The device. setting, value: where it was given, for errors. which: names it among several."""
    accelerator = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count() if accelerator is not None else 0
    there = ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)]
    try:
        # A bare number is the index of an accelerator of any kind.
        kind = accelerator.type if accelerator is not None else "cuda"
        found = torch.device(kind, device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"{which}is not the name of a device; this machine has {', '.join(there)}",
            setting=setting,
            value=value,
        ) from error
    if found.type == "cpu":
        return HOST
    found = torch.device(found.type, found.index or 0)
    if str(found) not in there:
        raise ModelError(
            f"{which}this machine has no such device; it has {', '.join(there)}",
            setting=setting,
            value=value,
        )
    return found


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices whose memory a model's forward passes use, in order of its modules.

    For offloaded weights these are the execution device and the host.
    """
    found: dict[torch.device, None] = {}
    offloaded = False
    for module in model.modules():
        own = [*module.parameters(recurse=False)]
        if own:
            found[execution_device(module)] = None
            offloaded |= any(one.is_meta or one.device == HOST for one in own)
    if offloaded:
        found[HOST] = None
    return list(found) or [HOST]


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids.

    `model.device` is "meta" if accelerate offloads the first parameter. The device is that of the first
    parameter in memory, or else of accelerate's hook.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return _device_of_hook(model) or torch.device("cpu")


def generation_device(model: PreTrainedModel) -> torch.device:
    """The device for token ids passed to `generate`.

    `generate` compares it with the device of the first parameter, and accepts the CPU if that is "meta";
    accelerate's hooks then move the ids.
    """
    return torch.device("cpu") if model.device.type == "meta" else input_device(model)


def execution_device(module: nn.Module) -> torch.device:
    """The device that a module computes on, with offloaded weights too."""
    return _device_of_hook(module) or input_device(module)


def _device_of_hook(module: nn.Module) -> torch.device | None:
    """The execution device of accelerate's hook, None without such a hook."""
    hook = hook_of(module)
    # Several hooks on one module are kept together in a SequentialHook.
    for each in getattr(hook, "hooks", (hook,)):
        device = getattr(each, "execution_device", None)
        if device is not None:
            # A number is the index of an accelerator.
            return torch.device(device)
    return None
