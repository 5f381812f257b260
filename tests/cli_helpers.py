"""Helpers of the command line's tests: scripted answers, subprocesses, what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from excise.cli.command import app, joined
from excise.cli.main import main
from excise.config import Settings, gather
from excise.store.directory import write_json


class Script:
    """Answers given in advance, and the questions that were asked. Ends like a closed input."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.questions: list[str] = []

    def __call__(self, question: str) -> str:
        self.questions.append(question)
        if not self._answers:
            raise EOFError
        return self._answers.pop(0)


def json_lines(text: str) -> list[dict[str, object]]:
    """Standard output that must be JSON objects, one a line, and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def result(directory: Path) -> dict[str, object]:
    return json.loads((directory / "result.json").read_text(encoding="utf-8"))


def rewrite(path: Path, content: Mapping[str, object]) -> None:
    """Write a run's `run.json` or `result.json` anew, with the checksum that anybody can make."""
    write_json(path, {key: value for key, value in content.items() if key != "sha256"})


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def configured(folder: Path, **changes: object) -> None:
    """Change entries of a model's `config.json`."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content), encoding="utf-8")


def start_excise(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """`python -m excise` as a process of its own, its output piped."""
    source = str(Path(__file__).parent.parent / "src")
    return subprocess.Popen(
        [sys.executable, "-m", "excise", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )


def read_until(process: subprocess.Popen[str], wanted: Callable[[str], bool]) -> None:
    """Read standard output up to and with the first line that is `wanted`."""
    assert process.stdout is not None
    if not any(wanted(line) for line in process.stdout):
        raise AssertionError("the process ended before that")


def settings_of(arguments: Sequence[str]) -> Settings:
    """The settings that a command line of the main job gives, the environment aside."""
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    return gather({**joined(bound.kwargs), "model": bound.args[0]}, {}, Path(os.devnull))
