"""Devices as a user knows them: what they are called, how much memory they have, and how much was held.

PyTorch asks each kind of accelerator in a module of its own; here is the one place that knows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from excise.devices.device import execution_device
from excise.errors import ModelError
from excise.system.platform import peak_host_memory

HOST = torch.device("cpu")
_KEPT_SHARE = 0.1
"""Share of a device's free memory that may be taken for good by what could lie on the host as well."""


@dataclass(frozen=True)
class DeviceMemory:
    """A device. name: for people. total, free: bytes; free counts other processes too."""

    device: torch.device
    name: str
    total: int
    free: int


def device_memory(device: torch.device) -> DeviceMemory:
    """What is known of a device; of a kind that PyTorch cannot ask, the host's memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(device, torch.cuda.get_device_properties(device).name, total, free)
    if device.type == "xpu":
        free, total = torch.xpu.mem_get_info(device)
        return DeviceMemory(device, torch.xpu.get_device_properties(device).name, total, free)
    host = psutil.virtual_memory()
    if device.type == "mps":
        # Memory is the host's own; the system lets the graphics processor have a part of it.
        total = torch.mps.recommended_max_memory()
        free = min(total - torch.mps.driver_allocated_memory(), host.available)
        return DeviceMemory(device, "Apple GPU", total, max(0, free))
    name = f"CPU, {torch.get_num_threads()} threads" if device == HOST else str(device)
    return DeviceMemory(device, name, host.total, host.available)


def place_for(size: int, device: torch.device) -> torch.device:
    """Where to keep `size` bytes that `device` uses again and again: there if there is room, else here."""
    if device.type == "cpu" or size <= _KEPT_SHARE * device_memory(device).free:
        return device
    return HOST


def peak_memory(devices: Iterable[torch.device]) -> Mapping[str, int]:
    """Most memory that the process has held so far, in bytes, by device: "cpu", "cuda:0", …"""
    peaks: dict[str, int] = {}
    for device in devices:
        if device.type == "cuda":
            peaks[str(device)] = torch.cuda.max_memory_allocated(device)
        elif device.type == "xpu":
            peaks[str(device)] = torch.xpu.max_memory_allocated(device)
        elif device.type == "mps":
            # No peak is kept; what the driver holds falls only when caches are emptied.
            peaks[str(device)] = torch.mps.driver_allocated_memory()
        else:
            peaks[str(device)] = peak_host_memory()
    return peaks


def devices_for(device: str, max_memory: Mapping[int | str, int] | None) -> list[torch.device]:
    """The devices that a model may come to lie on, by the settings of those names; at least one.

    Raises ModelError if there is no such device on this machine.
    """
    if max_memory:
        return [_existing(f"--max-memory {key}=…", key) for key in max_memory]
    if device in _SPREADING:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.device("cuda", index) for index in range(count)] or [HOST]
    return [_existing(f"--device {device}", device)]


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Devices that transformers does not name: it spreads the model over all accelerators."""


def _existing(what: str, device: int | str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count() if accelerator is not None else 0
    there = ["cpu", *(f"{accelerator.type}:{index}" for index in range(count) if accelerator)]
    try:
        # A bare number counts the accelerators, of whatever kind they are.
        kind = accelerator.type if accelerator is not None else "cuda"
        found = torch.device(kind, device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"{what}: no name of a device; there are {', '.join(there)}") from error
    if found.type == "cpu":
        return HOST
    found = torch.device(found.type, found.index or 0)
    if str(found) not in there:
        raise ModelError(f"{what}: there is no such device here; there are {', '.join(there)}")
    return found


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices that a model's passes take memory of, in the order of its modules.

    Where accelerate moves weights in for each pass, the device that it moves them to, and the host, which
    it moves them from.
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
