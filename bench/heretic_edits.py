"""heretic's edits, as its driver wrote them down: as ours where they are of our form, else in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from excise.devices.prepacked import is_prepacked
from excise.edits.edit import Edit
from excise.models.weights import dense
from excise.undocumented import prepack_linear_weight


def as_edit(matrices: Path, writers: Sequence[str], model: nn.Module) -> Edit:
    """The same edit as ours, where it is one: B A = −α r (rᵀ W) for every writer, r a unit vector.

    heretic sets such matrices with row_normalization = "none". Raises ValueError for any others.
    """
    tensors = load_file(matrices)
    directions, strengths = [], []
    for name in writers:
        weight = dense(model.get_submodule(name), "weight")
        down, up = tensors[f"{name}.A"], tensors[f"{name}.B"]
        strength = up.norm()
        r = -up[:, 0] / strength if strength else torch.eye(1, len(weight))[0]
        if up.shape[1] != 1 or (
            strength and not torch.allclose(down[0], r @ weight, rtol=1e-3, atol=1e-4)
        ):
            raise ValueError(f"{matrices}: the edit of {name} is not −α r (rᵀ W)")
        directions.append(r)
        strengths.append(strength)
    u = torch.stack(directions)
    return Edit("orthogonal", tuple(writers), u, u, torch.stack(strengths))


class LowRank:
    """W' = W + B A for every module of a file of matrices, put in and taken out bit for bit."""

    def __init__(self, model: nn.Module, matrices: Path) -> None:
        tensors = load_file(matrices)
        names = sorted({key.rpartition(".")[0] for key in tensors})
        self._changes: list[tuple[nn.Module, nn.Parameter, nn.Parameter]] = []
        for name in names:
            module = model.get_submodule(name)
            original = module.get_parameter("weight")
            plain = dense(module, "weight")
            changed = (plain + tensors[f"{name}.B"] @ tensors[f"{name}.A"]).to(original.dtype)
            laid_out = prepack_linear_weight(changed) if is_prepacked(original) else changed
            self._changes.append((module, original, nn.Parameter(laid_out, requires_grad=False)))

    def switch(self, on: bool) -> None:
        """Put the change in force, or take it off."""
        for module, original, changed in self._changes:
            module.register_parameter("weight", changed if on else original)
