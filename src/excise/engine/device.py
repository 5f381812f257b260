"""Where a model's inputs go, also when accelerate keeps its weights elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from excise.undocumented import hook_of


def input_device(model: nn.Module) -> torch.device:
    """The device that token ids are made on.

    `model.device` is "meta" where accelerate offloads the first parameter. Any parameter that is really
    there tells; if none is, the hook that runs the model does.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    hook = hook_of(model)
    # Several hooks on one module are kept together in a SequentialHook.
    for each in getattr(hook, "hooks", (hook,)):
        device = getattr(each, "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cpu")
