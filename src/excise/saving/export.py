"""Writes the edited model or the adapter of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from excise.anatomy.tensors import require_matrices
from excise.anatomy.writers import Anatomy
from excise.checkpoint.source import ModelSource
from excise.checkpoint.transformers4 import add_version4_keys
from excise.devices.prepacked import plain_weights
from excise.errors import SaveError, translated
from excise.events import Emit, Note, ignore
from excise.models.load import LoadedModel
from excise.report.terms import terms_of
from excise.saving.apply import Application, plan_for
from excise.saving.options import DescribedEdit, SaveOptions
from excise.system.files import require_free, temporary_beside


def require_writable(anatomy: Anatomy) -> None:
    """Raise SaveError if a writer has no matrix that can hold the edit."""
    for writer in anatomy.writers:
        require_matrices(writer)


def save_model(
    model: LoadedModel | ModelSource,
    described: DescribedEdit,
    destination: Path,
    options: SaveOptions = SaveOptions(),
    emit: Emit = ignore,
) -> None:
    """Write the edited model to the new folder `destination`. Raises SaveError or ModelError.

    The checkpoint's files are rewritten as in `excise apply`, so that `model` need not be loaded. For a GGUF
    file, the unpacked model in memory is written first.
    """
    source = model.source if isinstance(model, LoadedModel) else model
    if isinstance(model, LoadedModel):
        options = replace(options, chat_template=model.chat_template)
        if source.gguf is not None:
            require_free(destination)
            with _plain_copy(model, destination, emit) as folder:
                plain = ModelSource(source.name, folder, None, None)
                plan = plan_for(described.edit, plain, SaveOptions(writers=options.writers))
                application = Application(described, source, destination, options, plan, emit)
                application.write(terms_of(source))
            return
    plan = plan_for(described.edit, source, options)
    Application(described, source, destination, options, plan, emit).write()


@contextmanager
def _plain_copy(loaded: LoadedModel, destination: Path, emit: Emit) -> Iterator[Path]:
    """The model in memory as a temporary folder beside `destination`."""
    with (
        translated(SaveError, f"{destination}: could not be written", OSError, SafetensorError),
        temporary_beside(destination) as folder,
    ):
        for text in write_plain(loaded, folder):
            emit(Note(text))
        yield folder


def write_plain(loaded: LoadedModel, folder: Path) -> list[str]:
    """Write the model in memory into `folder`, for transformers 4 and 5.

    Returns a line for each setting that version 4 cannot read. Raises OSError or SafetensorError.
    """
    unmark_gguf(loaded.model)
    with plain_weights(loaded.model):
        loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return add_version4_keys(folder)


def unmark_gguf(model: PreTrainedModel) -> None:
    """Remove the marks of the GGUF format, if any, because transformers refuses to save such models."""
    config = model.config
    if getattr(config, "quantization_config", None) is None:
        return
    if config.quantization_config.quant_method != "gguf":
        return
    del config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    del model.quantization_method
