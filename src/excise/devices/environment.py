"""Package versions and hardware: what decides how numbers are rounded."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil
import torch

from excise import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "optuna",
    "peft",
    "accelerate",
    "datasets",
    "huggingface-hub",
    "gguf",
    "bitsandbytes",
    "torchao",
)
"""What computes, or reads and writes what is computed with; the last ones need not be installed."""


def versions() -> dict[str, str]:
    """Versions of excise, Python and the packages that a result may depend on."""
    found = {"excise": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # An optional one.
    return found


def hardware(device: torch.device) -> dict[str, str | int]:
    """What the model ran on: nothing that names the machine or its owner. memory: bytes."""
    found: dict[str, str | int] = {"system": f"{platform.system()} {platform.machine()}"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = int(properties.total_memory)
        return {
            **found,
            "device": properties.name,
            "memory": memory,
            "cuda": str(torch.version.cuda),
        }
    return {
        **found,
        "device": _processor() if device.type == "cpu" else device.type,
        "memory": int(psutil.virtual_memory().total),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def devices_digest(devices: Sequence[torch.device]) -> str:
    """16 hexadecimal digits that tell these devices from others: their names, and memory of their own."""
    return hardware_digest([hardware(device) for device in devices])


def hardware_digest(devices: Sequence[Mapping[str, object]]) -> str:
    """The same from what `hardware` says of each device."""
    # The host's memory is shared with others: how much of it there is to take is seen when it is taken.
    told = [[one["device"], one["memory"] if "cuda" in one else None] for one in devices]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's name; Linux tells it here, other systems tell Python."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
