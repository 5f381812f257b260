"""What differs between operating systems. No other module asks which one it runs on."""

from __future__ import annotations

import sys

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
