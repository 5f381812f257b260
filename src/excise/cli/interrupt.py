"""Ctrl+C during the search: the first ends it after the trial in hand, the second at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from excise.system.platform import interrupt_signals

_Handler = signal.Handlers | Callable[[int, FrameType | None], object] | int | None

STOPPING = "stopping after the trial in hand; press Ctrl+C again to quit"


class StopOnInterrupt:
    """A scope in which Ctrl+C asks the search to stop, and interrupts only when it comes again.

    `requested` is the search's `stop`. `announce` is called from the signal handler: it must not touch
    anything that the interrupted code may be in the middle of, such as a buffered stream.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._requested = False
        self._previous: dict[signal.Signals, _Handler] = {}

    def requested(self) -> bool:
        """True once Ctrl+C was pressed."""
        return self._requested

    def __enter__(self) -> StopOnInterrupt:
        self._previous = {one: signal.signal(one, self._handle) for one in interrupt_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        # None stands for a handler that Python did not install and cannot put back.
        for one, handler in self._previous.items():
            signal.signal(one, signal.default_int_handler if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        self._announce()
