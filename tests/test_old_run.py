"""A run directory of format 4, from before files had checksums: it opens, and can be gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli_helpers import json_lines
from conftest import write_prompts
from excise.cli.main import main
from excise.config import differences, gather, settings_digest, study_settings
from excise.search.study import Study
from excise.store.directory import RunDirectory

FIXTURE = Path(__file__).parent / "fixtures" / "run-format-4"

pytest_plugins = ["cli_support"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(FIXTURE, tmp_path / "run")))


def test_it_is_listed_and_shown(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (listed,) = json_lines(capsys.readouterr().out)
    assert (listed["model"], listed["trials"], listed["remark"]) == ("tiny", 3, "")
    assert main(["show", f"{run.path}:knee", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["facts"]["trial"] == 0
    assert shown["facts"]["held_out"]["edited"]["refusals"] == 0


def test_its_study_goes_on(run: RunDirectory) -> None:
    study = Study(run.journal, seed=0, startup_trials=2)
    before = study.records()
    assert [record.state for record in before] == ["complete", "complete", "pruned"]
    study.tell(study.new(), refusals=4, kl=0.5, seconds=1.0)
    again = Study(run.journal, seed=0, startup_trials=2).records()
    assert again[:3] == before
    assert (again[3].refusals, again[3].kl) == (4, 0.5)


def test_the_same_command_still_finds_it(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that have come since do not make it another run's directory."""
    monkeypatch.chdir(tmp_path)
    flags: dict[str, object] = {
        "model": "tiny",
        **write_prompts(Path("prompts"), 8),
        "trials": 3,
        "startup_trials": 2,
        "max_new_tokens": 4,
        "batch_size": 8,
        "dtype": "float32",
        "allow_absent": True,
    }
    settings = gather(flags, {}, None)
    identity = run.identity()
    assert settings_digest(settings) == identity["settings_digest"]
    stored = identity["settings"]
    assert isinstance(stored, dict)
    assert differences(stored, study_settings(settings)) == []
