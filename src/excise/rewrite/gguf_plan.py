"""The plan for a GGUF file: the tensors of an edit's writers, and their types after the edit."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

from gguf import GGMLQuantizationType as Kind
from gguf import quant_shape_from_byte_shape, quant_shape_to_byte_shape
from transformers import PreTrainedModel

from excise.anatomy.tensors import StoredTensor
from excise.anatomy.writers import WriterTensor, examine
from excise.checkpoint.companions import Companions
from excise.checkpoint.folder import Checkpoint
from excise.checkpoint.gguf_file import open_gguf, read_gguf
from excise.checkpoint.tensors import ORDINARY, Entry, WeightsFile
from excise.edits.edit import Edit
from excise.edits.fitting import fitted
from excise.errors import SaveError
from excise.models.meta_model import gguf_meta_model
from excise.rewrite.packing.gguf_blocks import GgufBlocks, written_as
from excise.rewrite.plan import Plan, Rewrite, numbered
from excise.undocumented import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map


def make_gguf_plan(path: Path, edit: Edit, declared: tuple[str, ...] = ()) -> Plan:
    """Find an edit's tensors in a GGUF file, from its header.

    GGUF stores matrices as [d, k] or [expert, d, k], whatever the model's own layout. Rows that GGUF reorders
    (queries and keys of Llama) are not rows of writers. Raises ModelError for a damaged file or an
    architecture that transformers cannot read from GGUF, SaveError if the edit does not fit.
    """
    file = read_gguf(path)
    model = gguf_meta_model(path)
    anatomy = examine(model, declared)
    edit = fitted(edit, anatomy, path.name)
    names = _names(path, model)
    rewrites = numbered(
        _rewrite(file, writer.name, names, tensor)
        for writer in anatomy.writers
        if writer.name in edit.changed
        for tensor in writer.tensors
    )
    checkpoint = Checkpoint(path.parent, (file,), None, Companions())
    return Plan(checkpoint, edit, rewrites, frozenset(), None)


def _names(path: Path, model: PreTrainedModel) -> dict[str, str]:
    """The model's parameter name → the name in the file, without `.weight` or `.bias`."""
    fields = open_gguf(path).fields
    architecture = str(fields["general.architecture"].contents())
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    return {
        parameter: stored for stored, parameter in get_gguf_hf_weights_map(model, processor).items()
    }


def _rewrite(
    file: WeightsFile, writer: str, names: dict[str, str], tensor: WriterTensor
) -> Rewrite:
    name = names.get(tensor.name, tensor.name)
    known = (name, f"{name}.bias" if tensor.bias else f"{name}.weight")
    entry = next((one for one in file.tensors if one.name in known), None)
    if entry is None:
        raise SaveError(
            f"{file.path.name}: has no tensor for {tensor.name} under a known name; apply the edit to the "
            "original checkpoint, and convert the result"
        )
    kind = Kind[entry.dtype]
    plain = entry.dtype in ORDINARY
    shape = entry.shape if plain else quant_shape_from_byte_shape(entry.shape, kind)
    axis = len(shape) - (1 if tensor.bias else 2)
    # Only the width: transformers guesses other sizes that it does not read from the file.
    if shape[axis] != tensor.shape[tensor.axis]:
        raise SaveError(
            f"{file.path.name}: {entry.name} has the shape {shape}, which does not fit {tensor.name}"
        )
    stored = StoredTensor(entry.name, axis, tensor.bias, tuple(shape))
    packing = None if plain else GgufBlocks(kind)
    same = Rewrite(writer, stored, file, entry, packing, {}, entry, packing)
    target = kind if plain else written_as(kind, shape[-1])
    if target is kind:
        return same
    bytes_shape = tuple(quant_shape_to_byte_shape(shape, target))
    output = Entry(entry.name, target.name, bytes_shape, 0, prod(bytes_shape))
    # The gguf package treats bfloat16 as a quantised type.
    if target is Kind.BF16:
        return replace(same, output=replace(output, shape=tuple(shape)), repacking=None)
    return replace(same, output=output, repacking=GgufBlocks(target, origin=kind))
