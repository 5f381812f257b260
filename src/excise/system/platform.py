"""Differences between operating systems. No other module checks the operating system."""

from __future__ import annotations

import errno
import signal
import sys
from typing import TextIO

import psutil


def peak_host_memory() -> int:
    """Peak memory of this process on the host, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # Imported here because Windows does not have this module.
    import resource

    return bytes_of_maximum(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def bytes_of_maximum(maximum: int, system: str) -> int:
    """`ru_maxrss` in bytes: macOS counts bytes, other systems KiB. system: as in `sys.platform`."""
    return maximum if system == "darwin" else maximum * 1024


def interrupt_signals() -> tuple[signal.Signals, ...]:
    """The signals with which a user at a console interrupts a process.

    On Windows also Ctrl+Break, which is the only signal that reaches another process group.
    """
    if sys.platform == "win32":
        return signal.SIGINT, signal.SIGBREAK
    return (signal.SIGINT,)


def end_of_input() -> str:
    """The keys that end the input of a console."""
    return "Ctrl+Z and Enter" if sys.platform == "win32" else "Ctrl+D"


def is_broken_pipe(error: OSError) -> bool:
    """True if the reader of a pipe is gone."""
    # Windows reports EINVAL (CPython issue 79935).
    unread = sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or unread


def is_console(stream: TextIO | None) -> bool:
    """True if `stream` is an interactive console; None is a missing stream."""
    if stream is None or not stream.isatty():
        return False
    if sys.platform != "win32":
        return True
    # On Windows, isatty is also true for the null device; only a console has a mode.
    import ctypes
    import msvcrt

    handle = ctypes.c_void_p(msvcrt.get_osfhandle(stream.fileno()))
    return bool(ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(ctypes.c_uint32())))
