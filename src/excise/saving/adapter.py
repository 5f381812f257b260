"""An adapter straight from an edit file and a checkpoint: only the writers' matrices are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from excise.anatomy.tensors import stored_tensors, use_stored_names
from excise.anatomy.writers import Writer, WriterTensor, examine
from excise.checkpoint.index import Index, checkpoint_index
from excise.checkpoint.names import stored_name
from excise.checkpoint.reader import Reader
from excise.checkpoint.source import ModelSource
from excise.edits.adapter import Weights, adapter_base, save_adapter
from excise.edits.edit import Edit
from excise.edits.matrices import parts
from excise.edits.served import unservable
from excise.edits.spelling import spelt_for
from excise.errors import SaveError
from excise.events import Emit, Note, StageStarted
from excise.models.meta_model import meta_model
from excise.models.quantization import describe, stored_quantization
from excise.report.card import model_card
from excise.report.terms import terms_of
from excise.reproduce.record import NAME, Reproduction
from excise.rewrite.plan import require_fit
from excise.saving.apply import require_base
from excise.saving.events import Saved
from excise.saving.reproduction import adapter_record
from excise.system.files import FurtherFiles


def save_edit_adapter(
    edit: Edit,
    source: ModelSource,
    destination: Path,
    figures: str,
    emit: Emit,
    *,
    declared: Sequence[str] = (),
    trust_remote_code: bool = False,
    force: bool = False,
) -> None:
    """Write the edit as a peft adapter to the new folder `destination`.

    The model is built from its configuration alone; one matrix is in memory at a time, beside the adapter.
    declared: the user's own claims about writers. force: see `require_base`. Raises SaveError if the edit
    belongs to another model, the checkpoint is packed or an adapter cannot hold the edit.
    """
    require_base(edit, source, force=force, emit=emit)
    packed = packed_whole(source)
    if packed is not None:
        raise SaveError(
            f"{source.name} is stored as {packed}, whose matrices are unpacked only by loading the "
            "model; export from the run instead (excise export RUN --adapter DIR)"
        )
    save_stored_adapter(
        edit,
        source,
        destination,
        figures,
        emit,
        declared=declared,
        trust_remote_code=trust_remote_code,
    )


def packed_whole(source: ModelSource) -> str | None:
    """How a checkpoint is stored, in words, if its matrices are to be had only by loading it; else None."""
    packed = "a GGUF file" if source.gguf else stored_quantization(source)
    return None if packed is None else describe(packed)


def save_stored_adapter(
    edit: Edit,
    source: ModelSource,
    destination: Path,
    figures: str,
    emit: Emit,
    *,
    declared: Sequence[str] = (),
    trust_remote_code: bool = False,
    known: Reproduction | None = None,
) -> None:
    """The same of a checkpoint that is known to be the edit's own, and plain.

    known: what the edit was made from, for the `reproduce.json` beside the adapter.
    """
    model = meta_model(source.name, source.folder, trust_remote_code=trust_remote_code)
    anatomy = examine(model, declared)
    edit = spelt_for(edit, anatomy)
    require_fit(source.name, edit, anatomy)
    emit(StageStarted("save", f"Saving the adapter to {destination}"))
    note_serving(edit, anatomy.writers, emit)
    index = checkpoint_index(source.folder)
    card = model_card(source, edit, figures, adapter=True, recorded=known is not None)
    further = recorded(source, known)
    with Reader(index) as reader:
        weights = stored_weights(model, index, reader)
        base, revision = adapter_base(source)
        save_adapter(
            edit,
            model,
            anatomy.writers,
            base,
            destination,
            card,
            weights,
            further,
            revision=revision,
        )
    emit(Saved("adapter", str(destination)))


def recorded(source: ModelSource, known: Reproduction | None) -> FurtherFiles:
    """What an adapter's folder gets beside it: the original's licence, and `reproduce.json` of a record."""

    def files(folder: Path) -> Mapping[str, str]:
        made = {} if known is None else {NAME: adapter_record(known, folder).text()}
        return {**terms_of(source), **made}

    return files


def note_serving(edit: Edit, writers: Sequence[Writer], emit: Emit) -> None:
    """Say, before an adapter is written, if vLLM will not load it."""
    changed = set(edit.changed)
    reason = unservable(
        [tensor for writer in writers if writer.name in changed for tensor in writer.tensors]
    )
    if reason is not None:
        emit(Note(f"vLLM cannot serve this adapter: {reason}; peft and transformers can"))


def stored_weights(model: PreTrainedModel, index: Index, reader: Reader) -> Weights:
    """The weights of a checkpoint's plain tensors, read when they are asked for."""
    use_stored_names(model, index)

    def read(tensor: WriterTensor) -> Iterator[Tensor]:
        for stored in stored_tensors(model, tensor):
            name = stored_name(stored.name, index)
            if name is None:
                raise SaveError(f"the checkpoint has no tensor {stored.name}")
            yield from parts(reader.read(name).float(), stored.axis, bias=stored.bias)

    return read
