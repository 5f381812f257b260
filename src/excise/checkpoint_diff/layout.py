"""Maps the tensors of a checkpoint to the model's linear layers, writers and biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.anatomy.tensors import stored_tensors, use_stored_names
from excise.anatomy.writers import Writer, WriterTensor, examine
from excise.checkpoint.index import Index
from excise.checkpoint.tensors import stored_name
from excise.errors import SaveError


@dataclass(frozen=True)
class Place:
    """The role of a stored tensor in the model.

    parameter: the parameter that it is, or is a part of. axis: its axis over the parameter's output (for
    writers, the residual stream). number: of the part, from 0. writer: module name of its writer, None for
    other layers.
    """

    parameter: WriterTensor
    axis: int
    number: int
    writer: str | None


Layout = Mapping[str, Place]
"""Stored name → its role, for parameters that an adapter can hold or an edit can change."""


def layout_of(model: PreTrainedModel, index: Index, declared: Sequence[str] = ()) -> Layout:
    """The layout of a checkpoint. model: may be on the meta device. Raises ModelError without writers."""
    anatomy = examine(model, declared)
    use_stored_names(model, index)
    layout: dict[str, Place] = {}
    for writer in anatomy.writers:
        for tensor in writer.tensors:
            layout.update(_places(model, index, tensor, writer))
    taken = {place.parameter.name for place in layout.values()}
    for tensor in _linear(model):
        if tensor.name not in taken:
            layout.update(_places(model, index, tensor, None))
    return layout


def _places(
    model: PreTrainedModel, index: Index, tensor: WriterTensor, writer: Writer | None
) -> Iterator[tuple[str, Place]]:
    try:
        stored = stored_tensors(model, tensor)
    except SaveError:
        return  # Stored in an unknown form: its changes are shown, but not explained.
    for number, one in enumerate(stored):
        name = stored_name(one.name, index)
        if name is not None:
            yield name, Place(tensor, one.axis, number, writer.name if writer else None)


def _linear(model: nn.Module) -> Iterator[WriterTensor]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            shape, axis = (module.out_features, module.in_features), 0
        elif isinstance(module, Conv1D):
            shape, axis = (int(module.nx), int(module.nf)), 1
        else:
            continue
        yield WriterTensor(f"{name}.weight", shape, axis, False)
        if module.bias is not None:
            yield WriterTensor(f"{name}.bias", (shape[axis],), 0, True)
