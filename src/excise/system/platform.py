"""What differs between operating systems. No other module asks which one it runs on."""

from __future__ import annotations

import errno
import signal
import sys
from typing import TextIO

import psutil


def peak_host_memory() -> int:
    """Most memory that this process has held so far, in bytes, on the host."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    # Not at the top: Windows has no such module.
    import resource

    return bytes_of_maximum(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def bytes_of_maximum(maximum: int, system: str) -> int:
    """`ru_maxrss` in bytes; macOS counts it so, everybody else in KiB. system: as in `sys.platform`."""
    return maximum if system == "darwin" else maximum * 1024


def interrupt_signals() -> tuple[signal.Signals, ...]:
    """The signals by which somebody at a console interrupts a process.

    Windows has a second one, Ctrl+Break: the only one that reaches a process in a group of its own, and one
    that ends a process without a word unless it is handled.
    """
    if sys.platform == "win32":
        return signal.SIGINT, signal.SIGBREAK
    return (signal.SIGINT,)


def end_of_input() -> str:
    """The keys that end the input of a console."""
    return "Ctrl+Z and Enter" if sys.platform == "win32" else "Ctrl+D"


def is_broken_pipe(error: OSError) -> bool:
    """True if nobody reads any more what is written to a pipe."""
    # Windows says "invalid argument" for that (CPython issue 79935), and not for much else.
    unread = sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or unread


def is_console(stream: TextIO | None) -> bool:
    """True if somebody sits at the other end of `stream`; None stands for a process without one."""
    if stream is None or not stream.isatty():
        return False
    if sys.platform != "win32":
        return True
    # Windows calls the null device a terminal too; only a console has a mode.
    import ctypes
    import msvcrt

    handle = ctypes.c_void_p(msvcrt.get_osfhandle(stream.fileno()))
    return bool(ctypes.windll.kernel32.GetConsoleMode(handle, ctypes.byref(ctypes.c_uint32())))
