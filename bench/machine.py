"""What the benchmarks share: time, peak memory, the line that says where they ran, peers' environments."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Cost:
    """What one call took. seconds: processor time, all threads. bytes: peak memory beyond the start."""

    seconds: float
    bytes: int


def forget_peak() -> None:
    """Let the peak of resident memory start from here, on Linux (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def resident() -> int:
    """Bytes resident now."""
    return _status("VmRSS")


def peak_resident(process: int | str = "self") -> int:
    """Most bytes resident since the last `forget_peak`, or of another process since it began."""
    return _status("VmHWM", process)


def cost(call: Callable[[], object], repeats: int = 1) -> Cost:
    """Median processor time of `repeats` calls, and the highest memory of any, on Linux."""
    taken: list[float] = []
    forget_peak()
    before = resident()
    for _ in range(repeats):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return Cost(statistics.median(taken), max(0, peak_resident() - before))


def _status(key: str, process: int | str = "self") -> int:
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status has no {key}")


def environment(folder: Path, *installs: Sequence[str]) -> Path:
    """The Python of an environment in `folder`, made on first use. installs: words of each pip install."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run(["python3", "-m", "venv", "--clear", str(folder)], check=True)
        for words in installs:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True)
        (folder / "installed").touch()
    return python


def described() -> str:
    """The machine and the versions, in one line."""
    processor = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    return (
        f"{processor}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
