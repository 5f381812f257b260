"""Writes an edit as an adapter with card and record, from a loaded model or its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.checkpoint.source import ModelSource
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.stored import FittedEdit, from_files
from excise.events import Emit, Note, StageStarted
from excise.report.card import model_card
from excise.report.terms import terms_of
from excise.reproduce.record import NAME
from excise.saving.events import Saved
from excise.saving.options import DescribedEdit, SaveOptions
from excise.saving.reproduction import adapter_record


def save_stored_adapter(
    described: DescribedEdit,
    source: ModelSource,
    destination: Path,
    options: SaveOptions,
    emit: Emit,
) -> None:
    """`save_fitted_adapter` from the unpacked files of a model that is not loaded."""
    trusted = options.trust_remote_code
    with from_files(described.edit, source, options.writers, trust_remote_code=trusted) as fitted:
        save_fitted_adapter(fitted, described, source, destination, emit)


def save_fitted_adapter(
    fitted: FittedEdit, described: DescribedEdit, source: ModelSource, destination: Path, emit: Emit
) -> None:
    """Write the edit as a peft adapter to the new folder `destination`. Raises SaveError.

    fitted: the edit with the model that `source` names.
    """
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
