"""Package versions and hardware, which determine how results are rounded."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil
import torch

from excise.system.version import VERSION

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
"""Packages that compute, or read and write models; some are optional."""


def versions() -> dict[str, str]:
    """Versions of excise, Python and the packages that a result may depend on."""
    found = {"excise": VERSION, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # An optional package.
    return found


def hardware(device: torch.device) -> dict[str, str | int]:
    """Description of a device, without names of the machine or its owner. memory: bytes."""
    system = f"{platform.system()} {platform.machine()}"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "system": system,
            "device": properties.name,
            "memory": int(properties.total_memory),
            "cuda": str(torch.version.cuda),
        }
    return {
        "system": system,
        "device": _processor() if device.type == "cpu" else device.type,
        "memory": int(psutil.virtual_memory().total),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def devices_digest(devices: Sequence[torch.device]) -> str:
    """A hash, 16 hexadecimal digits, over the names and the memory of devices."""
    return hardware_digest([hardware(device) for device in devices])


def hardware_digest(devices: Sequence[Mapping[str, object]]) -> str:
    """`devices_digest` from the results of `hardware`."""
    # Only the memory of GPUs: the host's memory is shared with other processes.
    identity = [[one["device"], one["memory"] if "cuda" in one else None] for one in devices]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's name; Linux has it in /proc, other systems in `platform`."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
