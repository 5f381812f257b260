"""Fixtures of the command line's tests. A test module takes them with `pytest_plugins = ["cli_support"]`.

It must not import this module besides: pytest wants to import its plugins itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import write_prompts
from excise.cli.main import main


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads the settings of whoever runs it, or writes beside the sources."""
    for name in [name for name in os.environ if name.startswith("EXCISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def prompt_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    flags = write_prompts(tmp_path_factory.mktemp("prompts"), 8)
    return [f"--{name.replace('_', '-')}={path}" for name, path in flags.items()]


@pytest.fixture(scope="session")
def small(model_folder: Path, prompt_flags: list[str]) -> list[str]:
    """The command line of a whole run that takes a second or so, without a run directory."""
    return [
        str(model_folder),
        *prompt_flags,
        *("--trials", "3", "--startup-trials", "2", "--max-new-tokens", "4"),
        *("--batch-size", "8", "--dtype", "float32", "--allow-absent"),
    ]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A run directory as an unattended run leaves it. Tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    assert main([*small, "--run-dir", str(directory), "--yes"]) == 0
    return directory


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with a file that nobody but its owner may change."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear", encoding="utf-8")
    return folder
