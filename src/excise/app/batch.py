"""How many prompts a run decodes at a time: found once, and kept by whoever goes on with the run.

Only where that is sound: on the same devices, with room for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from excise.config import Settings
from excise.devices.environment import devices_digest, hardware_digest
from excise.devices.memory import devices_of
from excise.engine.batch_size import slots_fit
from excise.events import Emit, Note
from excise.experiment.runner import Runner
from excise.models.load import LoadedModel
from excise.prompts.splits import PromptParts
from excise.store.directory import RunDirectory


@dataclass(frozen=True)
class BatchSize:
    """The batch of a run.

    slots: rows that decode at a time. rows: of a forward pass. candidates: scored side by side. device:
    `devices_digest` of where it was found, None if the run did not record it.
    """

    slots: int
    rows: int
    candidates: int
    device: str | None


def batch_of(directory: RunDirectory) -> BatchSize | None:
    """The batch that the run used so far, None if there is none on record. Raises RunError."""
    if not directory.result.exists():
        return None
    record: dict[str, Any] = directory.record()
    known = record.get("circumstances")
    if known is None:
        # Of an excise that recorded less.
        return None
    device = record.get("device")
    if device is None and known.get("hardware"):
        # Of an excise that recorded no digest.
        device = hardware_digest([known["hardware"]])
    return BatchSize(
        int(record["batch_size"]), int(known["rows"]), int(record["candidates"]), device
    )


def keep_batch(
    known: BatchSize | None,
    runner: Runner,
    settings: Settings,
    loaded: LoadedModel,
    prompts: PromptParts,
    emit: Emit,
) -> bool:
    """Give a run that goes on the batch that it had; False if another one has to be found.

    On the same devices, with room for it, it is kept: rounding, and so a verdict, may depend on it. On others
    every figure rounds otherwise anyway, and what filled one may not fit the other, or leave it idle.
    """
    if known is None:
        return False
    asked = runner.chat.encode(prompts.target.search.prompts)
    if known.device is not None and known.device != devices_digest(devices_of(loaded.model)):
        reason = "this run was on another device before"
    elif not slots_fit(loaded.model, asked, settings.max_new_tokens, known.slots):
        reason = (
            f"{known.slots} prompts at a time, as this run had before, do not fit into memory now"
        )
    else:
        runner.slots, runner.rows = settings.batch_size or known.slots, known.rows
        return True
    emit(
        Note(f"{reason}; how many run at a time is found anew, and figures may differ by rounding")
    )
    return False
