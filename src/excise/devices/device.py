"""The devices of a model's inputs and computations, with and without accelerate's offloading."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from excise.undocumented import hook_of


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
