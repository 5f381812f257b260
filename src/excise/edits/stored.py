"""An edit fitted to a model in memory, or to a model's files, which are read matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from excise.anatomy.tensors import stored_tensors, use_stored_names
from excise.anatomy.writers import Writer, WriterTensor, examine
from excise.checkpoint.index import Index, checkpoint_index
from excise.checkpoint.reader import Reader
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import stored_name
from excise.edits.adapter import Weights, changed_writers, loaded_weights
from excise.edits.fitting import fitted
from excise.edits.matrices import parts
from excise.edits.served import unservable
from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.models.meta_model import meta_model
from excise.models.quantization import packing_in_words, stored_quantization


@dataclass(frozen=True)
class FittedEdit:
    """An edit, the unedited model, the model's writers, and the source of their weights."""

    edit: EditValues
    model: PreTrainedModel
    writers: tuple[Writer, ...]
    weights: Weights

    @classmethod
    def of(
        cls, edit: EditValues, model: PreTrainedModel, declared: tuple[str, ...] = ()
    ) -> FittedEdit:
        """The edit fitted to a model in memory. declared: writers that a user declares. Raises ModelError."""
        anatomy = examine(model, declared)
        name = model.name_or_path or type(model).__name__
        edit = fitted(edit, anatomy, name)
        return cls(edit, model, anatomy.writers, loaded_weights(model))

    @property
    def unservable(self) -> str | None:
        """Why vLLM cannot load the edit as an adapter, None if it can."""
        changed = changed_writers(self.edit, self.writers)
        return unservable([tensor for writer in changed for tensor in writer.tensors])


@contextmanager
def from_files(
    edit: EditValues,
    source: ModelSource,
    declared: tuple[str, ...] = (),
    *,
    trust_remote_code: bool = False,
) -> Iterator[FittedEdit]:
    """An edit fitted to a model's files; one matrix is in memory at a time.

    declared: writers that the user declares. Raises SaveError if the checkpoint is packed, ModelError if the
    model cannot be built or the edit does not fit it.
    """
    packed = packed_whole(source)
    if packed is not None:
        raise SaveError(
            f"{source.name} is stored as {packed}, whose matrices are unpacked only by loading the "
            "model; give the loaded model: to_peft (excise export RUN --adapter DIR)"
        )
    model = meta_model(source.name, source.folder, trust_remote_code=trust_remote_code)
    anatomy = examine(model, declared)
    edit = fitted(edit, anatomy, source.name)
    index = checkpoint_index(source.folder)
    with Reader(index) as reader:
        yield FittedEdit(edit, model, anatomy.writers, _stored_weights(model, index, reader))


def packed_whole(source: ModelSource) -> str | None:
    """The packing of a checkpoint, in words, if only loading unpacks its matrices; else None."""
    packed = "a GGUF file" if source.gguf else stored_quantization(source)
    return None if packed is None else packing_in_words(packed)


def _stored_weights(model: PreTrainedModel, index: Index, reader: Reader) -> Weights:
    use_stored_names(model, index)

    def read(tensor: WriterTensor) -> Iterator[Tensor]:
        for stored in stored_tensors(model, tensor):
            name = stored_name(stored.name, index)
            if name is None:
                raise SaveError(f"the checkpoint has no tensor {stored.name}")
            yield from parts(reader.read(name).float(), stored.axis, bias=stored.bias)

    return read
