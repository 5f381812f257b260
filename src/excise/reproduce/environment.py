"""Package versions and hardware: what decides how numbers are rounded."""

from __future__ import annotations

import platform
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


def _processor() -> str:
    """The processor's name; Linux tells it here, other systems tell Python."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
