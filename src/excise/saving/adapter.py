"""Writes an edit as an adapter with card and record, from a loaded model or its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.checkpoint.source import ModelSource
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.stored import FittedEdit, from_files
from excise.events import Emit, Note, StageStarted, ignore
from excise.models.load import LoadedModel
from excise.report.card import model_card
from excise.report.terms import terms_of
from excise.reproduce.record import NAME
from excise.saving.events import Saved
from excise.saving.options import DescribedEdit, SaveOptions
from excise.saving.reproduction import adapter_record


def save_model_adapter(
    model: LoadedModel | ModelSource,
    described: DescribedEdit,
    destination: Path,
    options: SaveOptions = SaveOptions(),
    emit: Emit = ignore,
) -> None:
    """Write the edit as a peft adapter to the new folder `destination`. Raises SaveError or ModelError.

    model: loaded, or its files, which are not packed.
    """
    if isinstance(model, LoadedModel):
        fitted = FittedEdit.of(described.edit, model.model, options.writers)
        _save_fitted(fitted, described, model.source, destination, emit)
        return
    trusted = options.trust_remote_code
    with from_files(described.edit, model, options.writers, trust_remote_code=trusted) as fitted:
        _save_fitted(fitted, described, model, destination, emit)


def _save_fitted(
    fitted: FittedEdit,
    described: DescribedEdit,
    source: ModelSource,
    destination: Path,
    emit: Emit,
) -> None:
    emit(StageStarted("save", f"Saving the adapter to {destination}"))
    if fitted.unservable is not None:
        emit(
            Note(f"vLLM cannot serve this adapter: {fitted.unservable}; peft and transformers can")
        )
    record = described.record
    card = model_card(
        source, fitted.edit, described.figures, adapter=True, recorded=record is not None
    )

    def further(folder: Path) -> Mapping[str, str]:
        """The original's licence, and `reproduce.json`."""
        made = {} if record is None else {NAME: adapter_record(record, folder).text()}
        return {**terms_of(source), **made}

    save_adapter(fitted, AdapterFolder.of(destination, source, card, further))
    emit(Saved("adapter", str(destination)))
