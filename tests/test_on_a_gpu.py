"""scripts/on_a_gpu.sh: what it runs, in which order, and its last line; Python is played by a script."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "on_a_gpu.sh"
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *is_available*) exit "$NO_GPU" ;;
    *"import excise"*) [ -z "$LACKING" ] || [ -n "$PYTHONPATH" ] ;;
    *"-m venv"*) mkdir -p build/gpu/bin && cp "$0" build/gpu/bin/python ;;
    *"-m pip"*) exit 1 ;;
    *"-m pytest"*) exit "$TESTS" ;;
    *bench/gpu.py*) exit "$BENCH" ;;
esac
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


def on_a_gpu(folder: Path, **said: str) -> tuple[int, str, list[str]]:
    """Status, last line, and how Python was called, in a copy of the checkout that holds the script alone."""
    (folder / "scripts").mkdir()
    script = shutil.copy(SCRIPT, folder / "scripts")
    python = folder / "python"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "PYTHONPATH")}
    defaults = {"NO_GPU": "0", "LACKING": "", "TESTS": "0", "BENCH": "0"}
    done = subprocess.run(
        ["bash", script, str(python)],
        env={**kept, **defaults, **said, "CALLS": str(calls), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1], calls.read_text().splitlines()


def test_tests_and_then_the_benchmark(tmp_path: Path) -> None:
    status, last, calls = on_a_gpu(tmp_path)
    assert status == 0
    assert last.startswith("on_a_gpu: tests passed; the benchmark is in docs/benchmarks/gpu.md (")
    assert calls[-2].startswith("-m pytest -m gpu")
    words = calls[-1].split()
    assert words[:2] == ["bench/gpu.py", "--within"]
    assert 400 < int(words[2]) < 480
    assert not any("-m venv" in call for call in calls)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"TESTS": "1"}, "tests FAILED; the benchmark is in"),
        ({"TESTS": "124"}, "tests did not end in time; the benchmark is in"),
        ({"BENCH": "3"}, "tests passed; the benchmark did not end (status 3)"),
    ],
)
def test_what_went_wrong_is_in_the_last_line_and_the_status(
    said: dict[str, str], told: str, tmp_path: Path
) -> None:
    status, last, calls = on_a_gpu(tmp_path, **said)
    assert status == 1
    assert told in last
    assert calls[-1].startswith("bench/gpu.py")


def test_an_environment_is_made_if_something_lacks(tmp_path: Path) -> None:
    status, last, calls = on_a_gpu(tmp_path, LACKING="yes")
    made = [call for call in calls if "-m venv --system-site-packages" in call]
    # No network in this play: installing fails, and the sources themselves have to do.
    assert len(made) == 1
    assert any("-m pip install" in call and "-e ." in call for call in calls)
    assert (status, last.partition(" (")[0]) == (
        0,
        "on_a_gpu: tests passed; the benchmark is in docs/benchmarks/gpu.md",
    )


def test_without_a_gpu_nothing_is_run(tmp_path: Path) -> None:
    status, last, calls = on_a_gpu(tmp_path, NO_GPU="1")
    assert status == 1
    assert "sees a CUDA device; nothing was run" in last
    assert not any("pytest" in call or "bench" in call for call in calls)
