"""The work of a search, told as it is done: tokens, seconds, share of the machine's peak."""

from __future__ import annotations

from types import TracebackType

import torch

from excise.anatomy.writers import Anatomy
from excise.devices.device import input_device
from excise.engine.costs import costs_of
from excise.engine.meter import Meter, Stages
from excise.engine.rate import matrix_rate
from excise.engine.work import Work
from excise.events import Emit
from excise.models.load import LoadedModel
from excise.search.events import RateMeasured, WorkDone


class Metering:
    """A scope in which what a search runs its model on is counted, and told every few seconds.

    candidates: how many run in one batch from now on. stage: opens the scope of a stage.
    """

    def __init__(self, loaded: LoadedModel, anatomy: Anatomy, emit: Emit) -> None:
        self._emit = emit
        self._rate = matrix_rate(getattr(torch, loaded.dtype), input_device(loaded.model))
        emit(RateMeasured(loaded.dtype, self._rate))
        self._meter = Meter(
            loaded.model,
            costs_of(loaded.model, anatomy.layers),
            anatomy.first_writers(),
            on_work=self._tell_work,
        )
        self.candidates = 1
        self.stage: Stages = self._meter.stage

    def __enter__(self) -> Metering:
        self._meter.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._meter.__exit__(kind, error, trace)

    def ended_early(self, rows: int) -> None:
        """Count answers that were left before their end."""
        self._meter.ended_early(rows)

    def emit(self) -> None:
        """Emit what was done since the last time."""
        self._tell_work(self._meter.take())

    def _tell_work(self, work: Work) -> None:
        possible = self._rate * work.total_seconds
        share = work.operations / possible if possible else 0.0
        self._emit(WorkDone(work, self.candidates, share))
