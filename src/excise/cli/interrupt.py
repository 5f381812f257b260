"""Ctrl+C during the search: the first ends it after the running trial, the second at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from excise.system.platform import interrupt_signals

_Handler = signal.Handlers | Callable[[int, FrameType | None], object] | int | None

STOPPING = "stopping after the running trial; press Ctrl+C again to quit"


class StopOnInterrupt:
    """A context in which the first Ctrl+C requests a stop and the second raises KeyboardInterrupt.

    announce: called from the signal handler, so it must not use anything that the interrupted code may be
    changing, such as a buffered stream.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._requested = False
        self._previous: dict[signal.Signals, _Handler] = {}

    def requested(self) -> bool:
        """True after the first Ctrl+C."""
        return self._requested

    def __enter__(self) -> StopOnInterrupt:
        self._previous = {
            number: signal.signal(number, self._handle) for number in interrupt_signals()
        }
        return self

    def __exit__(self, *exception: object) -> None:
        # None stands for a handler that Python did not install and cannot restore.
        for number, handler in self._previous.items():
            signal.signal(number, signal.default_int_handler if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        self._announce()
