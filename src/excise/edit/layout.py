"""The checkpoint's layout: under which names, and which way round, writers' parameters are stored.

transformers fuses experts into one parameter while it loads, renames modules and transposes matrices,
and undoes all of it while it saves. Asking it to undo that for a probe whose numbers say where they
stand tells the stored names, and which axis of each stored tensor runs over the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from excise.errors import SaveError
from excise.model.writers import Anatomy, Writer, WriterTensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint. axis: the one that runs over the residual stream."""

    name: str
    axis: int
    bias: bool


Layout = Mapping[str, tuple[StoredTensor, ...]]
"""Writer's name → its stored tensors, matrices before biases, experts in order."""


def checkpoint_layout(model: PreTrainedModel, anatomy: Anatomy) -> Layout:
    """How the checkpoint that `model` was loaded from stores its writers. Raises SaveError."""
    return {writer.name: _stored(model, writer) for writer in anatomy.writers}


def unsavable(writer: Writer) -> str:
    """Why a writer without tensors cannot be saved, in one line."""
    return (
        f"{writer.name}: no stored matrix can be changed to the effect of this edit; searching, comparing "
        "and chatting work, saving does not"
    )


def require_matrices(writer: Writer) -> None:
    """Raise SaveError if there is nothing stored that could be changed to the edit's effect."""
    if not writer.tensors:
        raise SaveError(unsavable(writer))


def stored_tensors(model: PreTrainedModel, tensor: WriterTensor) -> tuple[StoredTensor, ...]:
    """What one parameter is stored as, in order. Raises SaveError if that cannot be told."""
    stored = revert_weight_conversion(model, {tensor.name: _probe(tensor)})
    width = tensor.shape[tensor.axis]
    return tuple(
        StoredTensor(name, _axis_of(probe, name, width), tensor.bias)
        for name, probe in stored.items()
    )


def _stored(model: PreTrainedModel, writer: Writer) -> tuple[StoredTensor, ...]:
    require_matrices(writer)
    return tuple(stored for tensor in writer.tensors for stored in stored_tensors(model, tensor))


def _probe(tensor: WriterTensor) -> Tensor:
    """Numbers that say which component of the residual stream they belong to; hardly any memory."""
    width = tensor.shape[tensor.axis]
    shape = [1] * len(tensor.shape)
    shape[tensor.axis] = width
    return torch.arange(width, dtype=torch.int16).view(shape).expand(tensor.shape)


def _axis_of(stored: Tensor, name: str, width: int) -> int:
    for axis, size in enumerate(stored.shape):
        line = stored
        for other in reversed(range(stored.dim())):
            if other != axis:
                line = line.select(other, 0)
        if size == width and torch.equal(line, torch.arange(width, dtype=stored.dtype)):
            return axis
    raise SaveError(f"{name}: cannot tell how the checkpoint stores this tensor; save an adapter")
