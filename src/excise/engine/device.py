"""Where a model's inputs go, also when accelerate keeps its weights elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def input_device(model: nn.Module) -> torch.device:
    """The device that token ids are made on.

    `model.device` is "meta" where accelerate offloads the first parameter. Any parameter that is really
    there tells; if none is, the hook that runs the model does.
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    hook = getattr(model, "_hf_hook", None)
    # Several hooks on one module are kept together in a SequentialHook.
    for each in getattr(hook, "hooks", (hook,)):
        device = getattr(each, "execution_device", None)
        if device is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cpu")


def generation_device(model: PreTrainedModel) -> torch.device:
    """The device that token ids for `generate` are made on.

    `generate` compares it with that of the first parameter, which is "meta" if it is offloaded, and accepts
    the host beside any; accelerate's hooks move the ids from there.
    """
    return torch.device("cpu") if model.device.type == "meta" else input_device(model)


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one shape and type, on the host: one transfer for each device that they lie on."""
    places: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(index)
    found = list(tensors)
    for device, indices in places.items():
        if device.type == "cpu":
            continue
        together = torch.stack([tensors[index] for index in indices]).cpu()
        for index, tensor in zip(indices, together, strict=True):
            found[index] = tensor
    return found
