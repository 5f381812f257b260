"""Seconds that modules take, by hooks around them: on a CUDA device by its own clock, without waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Stopwatch:
    """Adds up the time between each start and the stop that follows it. Both are made to be hooks."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | torch.cuda.Event | None = None
        self._spans: list[tuple[float | torch.cuda.Event, float | torch.cuda.Event]] = []

    def start(self, *hooked: object) -> None:
        """Begin. A start before it without a stop, as where memory ran out on the way, is forgotten."""
        self._started = self._now()

    def stop(self, *hooked: object) -> None:
        """End."""
        if self._started is not None:
            self._spans.append((self._started, self._now()))
            self._started = None

    def take(self) -> float:
        """Seconds since it was last taken; waits until the device has come so far."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = sum(_between(started, ended) for started, ended in self._spans)
        self._spans = []
        return seconds

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(started: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(started, float) and isinstance(ended, float):
        return ended - started
    assert isinstance(started, torch.cuda.Event)
    assert isinstance(ended, torch.cuda.Event)
    # Milliseconds.
    return float(started.elapsed_time(ended)) / 1e3


@contextmanager
def after_each(modules: Sequence[nn.Module], call: Callable[..., None]) -> Iterator[None]:
    """A scope in which `call` is called after each of `modules`, behind the hooks that are there."""
    handles = [module.register_forward_hook(call) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
