"""What stands around a writer's weights: gains of the norms behind it, norms of its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from excise.anatomy.writers import Writer
from excise.models.weights import dense


def post_norm_gains(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """γ of the norms behind each writer, ones where there are none: [writer, d], float32.

    Read off by passing ones through the norms: an RMSNorm maps them to γ / √(1 + ε), whichever way it
    stores γ (Gemma keeps γ − 1), and a second norm multiplies by its own γ. The common factor does not
    matter to a direction.
    """
    gains = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        values = torch.ones(1, dimension)
        with torch.inference_mode():
            for name in writer.post_norms:
                norm = model.get_submodule(name)
                parameter = next(norm.parameters(), values)
                # An offloaded norm brings its input to where it computes.
                device = values.device if parameter.is_meta else parameter.device
                values = norm(values.to(device, parameter.dtype))
        gains[index] = values[0].to("cpu", torch.float32)
    return gains


def row_norms(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """Euclidean norms of the rows of each writer's matrix: [writer, d], float32.

    Ones for a writer of several matrices, whose rows have several norms: on the output of the whole,
    the row-normalised operator is then the orthogonal one.
    """
    norms = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        matrices = [tensor for tensor in writer.tensors if not tensor.bias]
        if writer.matrices == 1 and len(matrices) == 1:
            owner, _, name = matrices[0].name.rpartition(".")
            weight = dense(model.get_submodule(owner), name)
            norms[index] = weight.norm(dim=1 - matrices[0].axis)
    return norms
