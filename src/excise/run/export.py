"""Writing an edited model, or an adapter, from a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excise.edit.adapter import save_adapter
from excise.edit.bake import bake
from excise.edit.edit import Edit
from excise.edit.layout import checkpoint_layout, require_matrices
from excise.errors import SaveError
from excise.model.load import LoadedModel
from excise.model.source import ModelSource
from excise.model.storage import UNPACKED_ON_A_CPU, describe, packed_as
from excise.model.writers import Anatomy
from excise.run import events
from excise.run.card import model_card
from excise.run.events import Tell


def require_rewritable(source: ModelSource, quantization: str) -> None:
    """Raise SaveError if an edited model can never be written from this checkpoint, loaded in this way.

    It needs no weight, so that it can be asked before the work instead of after it.
    """
    packed = packed_as(source)
    if packed is not None and packed not in UNPACKED_ON_A_CPU:
        raise _stored_packed(source, describe(packed))
    if quantization != "none" and not source.has_safetensors:
        raise SaveError(
            f"{source.name} has no safetensors files to rewrite, and what is in memory is packed as "
            f"{describe(quantization)}; leave out --quantization, or save an adapter (--adapter DIR)"
        )


def require_writable(loaded: LoadedModel, anatomy: Anatomy) -> None:
    """Raise SaveError if neither the checkpoint can be rewritten nor the model in memory written."""
    if loaded.packing is not None and loaded.quantization == "none":
        raise _stored_packed(loaded.source, loaded.packing)
    for writer in anatomy.writers:
        require_matrices(writer)


def _stored_packed(source: ModelSource, packing: str) -> SaveError:
    return SaveError(
        f"{source.name} is stored as {packing}, which cannot be rewritten; save an adapter instead "
        "(--adapter DIR)"
    )


def save_model(
    loaded: LoadedModel,
    anatomy: Anatomy,
    edit: Edit,
    destination: Path,
    figures: str,
    tell: Tell,
) -> None:
    """Write the edited model to the new folder `destination`. Raises SaveError.

    The checkpoint's own files are copied and edited. Where there is no safetensors checkpoint (GGUF,
    old PyTorch files), or one that transformers unpacked while loading (MXFP4, FP8 on a CPU), the model
    in memory is written first, in the data type it was loaded in.
    """
    source = loaded.source
    require_rewritable(source, loaded.quantization)
    require_writable(loaded, anatomy)
    tell(events.StageStarted("save", f"Saving the edited model to {destination}"))
    texts = {"README.md": model_card(source, edit, figures, adapter=False)}
    if loaded.chat_template is not None:
        texts["chat_template.jinja"] = loaded.chat_template
    bake(
        edit,
        checkpoint_layout(loaded.model, anatomy),
        source.folder
        if source.has_safetensors and packed_as(source) is None
        else writes_itself(loaded.model, loaded.tokenizer),
        destination,
        texts,
    )
    tell(events.Saved("model", str(destination)))


def save_model_adapter(
    loaded: LoadedModel,
    anatomy: Anatomy,
    edit: Edit,
    destination: Path,
    figures: str,
    tell: Tell,
) -> None:
    """Write the edit as a peft adapter to the new folder `destination`. Raises SaveError."""
    tell(events.StageStarted("save", f"Saving the adapter to {destination}"))
    card = model_card(loaded.source, edit, figures, adapter=True)
    save_adapter(edit, loaded.model, anatomy.writers, loaded.source.name, destination, card)
    tell(events.Saved("adapter", str(destination)))


def writes_itself(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Path], None]:
    """A function that writes the model in memory, as plain safetensors, into a folder."""

    def write(folder: Path) -> None:
        unmark_gguf(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return write


def unmark_gguf(model: PreTrainedModel) -> None:
    """Take off the marks of the GGUF format, which transformers refuses to save; the tensors are plain.

    A model without such marks stays as it is.
    """
    config = model.config
    if getattr(config, "quantization_config", None) is None:
        return
    if config.quantization_config.quant_method != "gguf":
        return
    del config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    del model.quantization_method
