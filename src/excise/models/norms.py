"""Gains of the post-norms of writers, and norms of the rows of writers' matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from excise.anatomy.writers import Writer
from excise.models.weights import dense


def post_norm_gains(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """γ of the post-norms of each writer, ones for a writer without post-norm: [writer, d], float32.

    Measured by passing ones through the norms. An RMSNorm maps them to γ / √(1 + ε), however it stores γ
    (Gemma stores γ − 1); a second norm multiplies by its own γ. A common factor does not change a direction.
    """
    gains = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        values = torch.ones(1, dimension)
        with torch.inference_mode():
            for name in writer.post_norms:
                norm = model.get_submodule(name)
                parameter = next(norm.parameters(), values)
                # The hook of an offloaded norm moves the input to the norm's device.
                device = values.device if parameter.is_meta else parameter.device
                values = norm(values.to(device, parameter.dtype))
        gains[index] = values[0].to("cpu", torch.float32)
    return gains


def row_norms(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """Euclidean norms of the rows of each writer's matrix: [writer, d], float32.

    Ones for a writer of several matrices: the row-normalised operator on their common output is then the
    orthogonal operator.
    """
    norms = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        matrices = [tensor for tensor in writer.tensors if not tensor.bias]
        if writer.matrices == 1 and len(matrices) == 1:
            owner, _, name = matrices[0].name.rpartition(".")
            weight = dense(model.get_submodule(owner), name)
            norms[index] = weight.norm(dim=1 - matrices[0].axis)
    return norms
