"""The stored names and axes of writers' parameters in a checkpoint.

While loading, transformers renames modules, transposes matrices and fuses experts into one parameter; while
saving, it reverts these conversions. Here it reverts them for a probe tensor that holds indices of the
residual stream. The result shows the stored names, and the axis of each stored tensor over the stream.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy, Writer, WriterTensor
from excise.checkpoint.tensors import possible_names
from excise.errors import SaveError
from excise.undocumented import (
    WeightConverter,
    WeightRenaming,
    get_model_conversion_mapping,
    rename_source_key,
    revert_weight_conversion,
    use_conversions,
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint. axis: over the residual stream. shape: without quantisation."""

    name: str
    axis: int
    bias: bool
    shape: tuple[int, ...]


Layout = Mapping[str, tuple[StoredTensor, ...]]
"""Writer's name → its stored tensors, matrices before biases, experts in order."""


def layout_by_names(
    model: PreTrainedModel, anatomy: Anatomy, writers: Collection[str], names: Collection[str]
) -> Layout:
    """How a checkpoint with the stored `names` holds the tensors of `writers`.

    model: on the meta device; it is changed, see `use_stored_names`. A shared parameter may be stored under
    several names. Raises SaveError.
    """
    use_stored_names(model, names)
    found = [writer for writer in anatomy.writers if writer.name in writers]
    for writer in found:
        require_matrices(writer)
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    same = {name: group for group in places.values() for name in group}
    known = {variant for name in names for variant in possible_names(name)}

    def of_tensor(tensor: WriterTensor) -> Iterator[StoredTensor]:
        for name in same[tensor.name]:
            stored = stored_tensors(model, replace(tensor, name=name))
            if name == tensor.name or all(one.name in known for one in stored):
                yield from stored

    return {
        writer.name: tuple(stored for tensor in writer.tensors for stored in of_tensor(tensor))
        for writer in found
    }


def use_stored_names(model: PreTrainedModel, names: Collection[str]) -> None:
    """Set the model's weight conversions as if it had been loaded from a checkpoint with these `names`.

    Checkpoints of one model type use different names, image-text models above all. Only conversions that
    some name needs are set.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    held = model.state_dict()
    for name in names:
        rename_source_key(name, renamings, converters, model.base_model_prefix, held)
    use_conversions(model, [one for one in conversions if one.was_used()])


def unsavable(writer: Writer) -> str:
    """Why a writer without tensors cannot be saved, in one line."""
    return (
        f"{writer.name}: no change of a stored matrix has the effect of this edit; search, compare "
        "and chat work, saving does not"
    )


def require_matrices(writer: Writer) -> None:
    """Raise SaveError for a writer without stored matrices."""
    if not writer.tensors:
        raise SaveError(unsavable(writer))


def stored_tensors(model: PreTrainedModel, tensor: WriterTensor) -> tuple[StoredTensor, ...]:
    """The stored tensors of one parameter, in order. Raises SaveError if they cannot be determined."""
    width = tensor.shape[tensor.axis]
    # Numbers are indices of the residual stream; expanded, so that the probe takes little memory.
    shape = [width if axis == tensor.axis else 1 for axis in range(len(tensor.shape))]
    indices = torch.arange(width, dtype=torch.int16).view(shape).expand(tensor.shape)
    probe = {tensor.name: indices}
    try:
        found = revert_weight_conversion(model, probe)
    except ValueError:
        # Stored together with similar parameters (text experts with image experts).
        found = revert_weight_conversion(model, {**_siblings(model, tensor.name), **probe})
    return tuple(
        StoredTensor(name, _axis_of(stored, name, width), tensor.bias, tuple(stored.shape))
        for name, stored in found.items()
        if int(stored.max()) >= 0
    )


def _siblings(model: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """Placeholders for the parameters that are stored together with `name`."""
    block, _, *ends = name.rsplit(".", 3)
    return {
        other: torch.full((1,), -1, dtype=torch.int16).expand(parameter.shape)
        for other, parameter in model.named_parameters()
        if other.startswith(f"{block}.") and other != name and other.rsplit(".", 3)[2:] == ends
    }


def _axis_of(stored: Tensor, name: str, width: int) -> int:
    for axis, size in enumerate(stored.shape):
        line = stored
        for other in reversed(range(stored.dim())):
            if other != axis:
                line = line.select(other, 0)
        if size == width and torch.equal(line, torch.arange(width, dtype=stored.dtype)):
            return axis
    raise SaveError(
        f"{name}: cannot determine how the checkpoint stores this tensor; save an adapter: to_peft "
        "(--adapter DIR)"
    )
