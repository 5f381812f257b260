"""Nothing in excise needs POSIX: every module is imported without what Windows lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import excise
from excise.system import platform

SOURCES = Path(excise.__file__).parent

POSIX_ONLY = "fcntl grp posix pty pwd resource syslog termios tty"
"""Modules of the standard library that Windows does not have."""

IMPORTER = f"""
import builtins, importlib, sys

absent = set({POSIX_ONLY!r}.split())
wanted = builtins.__import__

# Only what excise itself imports is refused: whether a library finds its way is the library's affair.
def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__", "")
    ours = importer.split(".")[0] == "excise"
    if ours and level == 0 and name in absent:
        raise ImportError(f"no module named {{name}} here")
    return wanted(name, globals, locals, fromlist, level)

builtins.__import__ = without_posix
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(module, error)
"""


def module_names() -> list[str]:
    names = []
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_every_module_is_imported_without_the_modules_of_posix() -> None:
    names = module_names()
    assert len(names) > 150
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTER, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_peak_memory_grows_by_what_was_held() -> None:
    before = platform.peak_host_memory()
    # An earlier test may have held more than this process holds now.
    below_peak = max(0, before - psutil.Process().memory_info().rss)
    held = bytearray(below_peak + 200_000_000)
    held[::4096] = b"x" * len(held[::4096])
    del held
    grown = platform.peak_host_memory() - before
    # Memory freed before the test may be used again, so only most of it has to show.
    assert 100_000_000 < grown < 400_000_000


@pytest.mark.parametrize(
    ("system", "peak"), [("linux", 3 * 1024), ("darwin", 3), ("freebsd14", 3 * 1024)]
)
def test_the_peak_is_told_in_the_units_of_the_system(system: str, peak: int) -> None:
    assert platform.bytes_of_maximum(3, system) == peak
