"""Where a model's inputs go, also when accelerate keeps its weights elsewhere."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from excise.undocumented import hook_of


def input_device(model: nn.Module) -> torch.device:
    """The device that token ids are made on.

    `model.device` is "meta" where accelerate offloads the first parameter. Any parameter that is really
    there tells; if none is, the hook that runs the model does.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return _device_of_hook(model) or torch.device("cpu")


def generation_device(model: PreTrainedModel) -> torch.device:
    """The device that token ids for `generate` are made on.

    `generate` compares it with that of the first parameter, which is "meta" if it is offloaded, and accepts
    the host beside any; accelerate's hooks move the ids from there.
    """
    return torch.device("cpu") if model.device.type == "meta" else input_device(model)


def execution_device(module: nn.Module) -> torch.device:
    """The device that a module with weights computes on, also if they are moved in for each pass."""
    return _device_of_hook(module) or input_device(module)


def _device_of_hook(module: nn.Module) -> torch.device | None:
    """Where accelerate's hook has a module run, None if there is no hook that says so."""
    hook = hook_of(module)
    # Several hooks on one module are kept together in a SequentialHook.
    for each in getattr(hook, "hooks", (hook,)):
        device = getattr(each, "execution_device", None)
        if device is not None:
            # A number is one of the accelerators that PyTorch has here.
            return torch.device(device)
    return None
