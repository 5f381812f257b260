"""One way of running trials, measured: seconds, what of them the edit took, and memory, on one device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.machine import forget_peak, peak_resident, resident
from excise.devices.out_of_memory import is_out_of_memory
from excise.models.rate import synchronise

HEAD = (
    "| way | candidates a batch | trials a minute | seconds a trial | operator, share of the trial "
    "| memory beyond the weights |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Row:
    """One way, measured. seconds, operator: of one trial; memory: bytes beyond the weights."""

    way: str
    candidates: int
    seconds: float
    operator: float
    memory: int

    def line(self) -> str:
        """A line of the table."""
        return (
            f"| {self.way} | {self.candidates} | {60 / self.seconds:,.2f} | {self.seconds:,.2f} "
            f"| {1e3 * self.operator:,.2f} ms, {self.operator / self.seconds:.2%} "
            f"| {self.memory / 2**30:,.2f} GiB |"
        )


def _nothing() -> float:
    return 0.0


class Clock:
    """Medians of repeated trials on one device; until: when, by `perf_counter`, no way is begun any more."""

    def __init__(self, device: torch.device, repeats: int, until: float = float("inf")) -> None:
        self._device, self._repeats, self._until = device, repeats, until

    def attempt(
        self,
        way: str,
        candidates: int,
        put: Callable[[], None],
        run: Callable[[], object],
        spent_inside: Callable[[], float] = _nothing,
    ) -> Row | None:
        """One measurement, or None, said aloud, where memory or time runs out.

        put: what a trial does to have its edit in force, or the part of it that comes before; run: the trial
        itself; spent_inside: seconds of it that went into the edit since this was last asked.
        """
        if time.perf_counter() > self._until:
            print(f"{way}, {candidates}: not begun, out of time", flush=True)
            return None
        try:
            row = self._measure(way, candidates, put, run, spent_inside)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print(f"{way}, {candidates}: out of memory", flush=True)
            return None
        print(row.line(), flush=True)
        return row

    def _measure(
        self,
        way: str,
        candidates: int,
        put: Callable[[], None],
        run: Callable[[], object],
        spent_inside: Callable[[], float],
    ) -> Row:
        spent: list[tuple[float, float]] = []
        before = self._forget()
        for _ in range(self._repeats + 1):
            spent_inside()
            marks = []
            for call in (put, run):
                synchronise(self._device)
                marks.append(time.perf_counter())
                call()
            synchronise(self._device)
            ended = time.perf_counter()
            spent.append((ended - marks[0], marks[1] - marks[0] + spent_inside()))
        # The first one warms up.
        seconds, operator = (statistics.median(each) for each in zip(*spent[1:], strict=True))
        memory = max(0, self._peak() - before)
        return Row(way, candidates, seconds / candidates, operator / candidates, memory)

    def _forget(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return int(torch.cuda.memory_allocated(self._device))
        forget_peak()
        return resident()

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return peak_resident()
