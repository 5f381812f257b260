"""Where a model's weights go, and in what form: device, memory limits, quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from excise.model.quantise import Quantisation, quantisation_arguments


@dataclass(frozen=True)
class Placement:
    """How to place a model.

    device: auto (all accelerators there are, else the host), cpu, cuda, cuda:1, …. max_memory: limits
    such as "cpu=8GiB" or "0=20GiB" (accelerator 0); weights beyond them are offloaded, those that fit
    nowhere to `offload_folder`.
    """

    device: str = "auto"
    quantisation: Quantisation = "none"
    max_memory: tuple[str, ...] = ()
    offload_folder: Path | None = None

    def arguments(self, dtype: str) -> dict[str, Any]:
        """What transformers' `from_pretrained` needs for it. dtype: auto or a name in torch."""
        spread = bool(self.max_memory) or torch.cuda.is_available()
        if self.quantisation == "bnb_8bit" and dtype == "auto":
            # LLM.int8 computes in this type whatever the rest is in.
            dtype = "float16"
        chosen = dtype if dtype == "auto" else getattr(torch, dtype)
        arguments: dict[str, Any] = {
            "dtype": chosen,
            "device_map": self.device if self.device != "auto" else "auto" if spread else "cpu",
        }
        if self.max_memory:
            limits = (limit.split("=", 1) for limit in self.max_memory)
            arguments["max_memory"] = {
                int(device) if device.isdigit() else device: size for device, size in limits
            }
        if self.offload_folder is not None:
            arguments["offload_folder"] = str(self.offload_folder)
        return arguments | quantisation_arguments(self.quantisation, chosen)
