"""Run directories of formats 4 and 5, from before kinds had their names of today: they open, and go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli_helpers import json_lines
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.app.run import in_markers_of_run
from excise.cli.main import main
from excise.config import gather, settings_digest, study_settings
from excise.judges.markers import FORMER_MARKERS
from excise.search.study import Proposals
from excise.store.directory import RunDirectory, default_path
from excise.store.identity import differences
from excise.store.stored_study import open_study

FIXTURES = Path(__file__).parent / "fixtures"
FORMER = "discriminant_weighted"

pytest_plugins = ["cli_support"]


@pytest.fixture(params=["run-format-4", "run-format-5"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(FIXTURES / request.param, tmp_path / "run")))


@pytest.fixture
def by_gradients(tmp_path: Path) -> RunDirectory:
    """Its trial 2 was found by the gradient search of former versions."""
    return RunDirectory(Path(shutil.copytree(FIXTURES / "run-by-gradients", tmp_path / "run")))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that made the fixtures, in a working directory like theirs, without its trials."""
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("tiny")
    tiny_tokenizer().save_pretrained("tiny")
    flags = write_prompts(Path("prompts"), 8)
    prompts = [f"--{name.replace('_', '-')}={path}" for name, path in flags.items()]
    numbers = ["--startup-trials", "2", "--max-new-tokens", "4", "--batch-size", "8"]
    return ["tiny", *prompts, *numbers, "--dtype", "float32", "--allow-absent", "--yes"]


def rename(run: RunDirectory, former: str, other: str) -> None:
    """Another kind in all records of a run of format 4, which has no checksums."""
    for path in (run.path / "run.json", run.result, run.journal):
        path.write_text(path.read_text(encoding="utf-8").replace(former, other), encoding="utf-8")


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
    assert shown["kind"] == shown["parameters"]["kind"] == "discriminant"


def test_reading_it_writes_nothing_and_gives_names_of_today(run: RunDirectory) -> None:
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    settings, trials = run.identity().settings, run.record()["trials"]
    assert isinstance(settings, dict)
    assert isinstance(trials, list)
    assert settings["kinds"] == ["discriminant", "orthogonal"]
    assert [trial["parameters"]["kind"] for trial in trials] == [
        "discriminant",
        "orthogonal",
        "orthogonal",
    ]
    assert run.former_kinds() == ()
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_its_study_goes_on(run: RunDirectory) -> None:
    written = run.journal.read_bytes()
    assert FORMER.encode() in written
    study = open_study(run.journal, Proposals(0, 2))
    before = study.trials()
    assert [record.state for record in before] == ["complete", "complete", "pruned"]
    assert [record.parameters["kind"] for record in before] == [
        "discriminant",
        "orthogonal",
        "orthogonal",
    ]
    trial = study.new()
    trial.suggest_categorical("kind", ["discriminant", "orthogonal"])
    study.tell(trial, (4, 0.5), 1.0)
    # What was there stays as it was, to the byte: a process that is killed leaves nothing half renamed.
    assert run.journal.read_bytes().startswith(written)
    again = open_study(run.journal, Proposals(0, 2)).trials()
    assert again[:3] == before
    assert (again[3].refusals, again[3].kl) == (4, 0.5)


def test_the_same_command_still_finds_it(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that have come since, and names that changed, do not make it another run's directory."""
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
    given = gather(flags, {}, None)
    assert given.markers is None
    # The phrases that were the default then are those of the run.
    settings = in_markers_of_run(given.model_copy(update={"run_dir": run.path}))
    assert settings.markers == FORMER_MARKERS
    identity = run.identity()
    assert settings_digest(settings) == identity.settings_digest
    stored = identity.settings
    assert isinstance(stored, dict)
    assert differences(stored, study_settings(settings)) == []
    # Under `runs/` its folder has the digest of the settings as they were named then.
    new = default_path(study_settings(given))
    assert new != default_path(study_settings(settings))
    then = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["settings_digest"]
    former = new.with_name(f"tiny-{then[:8]}")
    assert former != new
    shutil.copytree(run.path, former)
    for each in (given, settings):
        assert default_path(study_settings(each)) == former
    assert in_markers_of_run(given).markers == FORMER_MARKERS


def test_other_markers_are_not_those_of_the_run(
    run: RunDirectory, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--markers", "gossamer", "--run-dir", str(run.path)]) == 2
    assert "belongs to other settings (markers: " in " ".join(capsys.readouterr().err.split())
    # A run of today has none, and no other run lends it any.
    assert main([*command, "--run-dir", "new", "--trials", "2"]) == 0
    new = RunDirectory(Path("new"))
    assert new.identity().settings["markers"] is None
    settings = gather({"model": "tiny", "run_dir": "new"}, {}, None)
    assert in_markers_of_run(settings) == settings


def test_the_command_goes_on_with_it_as_with_a_run_of_today(
    run: RunDirectory, command: list[str]
) -> None:
    kept = run.record()["trials"]
    assert isinstance(kept, list)
    assert main([*command, "--run-dir", str(run.path), "--trials", "5"]) == 0
    # In two goes too: a trial that is proposed after a restart knows of all before it.
    for trials in ("3", "5"):
        assert main([*command, "--run-dir", "new", "--trials", trials]) == 0

    def told(path: Path) -> list[object]:
        trials = json.loads((path / "result.json").read_text(encoding="utf-8"))["trials"]
        return [(one["number"], one["state"], one["parameters"]) for one in trials]

    assert told(run.path) == told(Path("new"))
    assert told(run.path)[:3] == [(one["number"], one["state"], one["parameters"]) for one in kept]
    assert json.loads(run.result.read_text(encoding="utf-8"))["format"] == 6
    # Opened once more, it has nothing left to do.
    assert main([*command, "--run-dir", str(run.path), "--trials", "5"]) == 0
    assert main(["export", str(run.path), "--save", "model"]) == 0
    assert main(["reproduce", "model", "again"]) == 0


def test_a_run_of_kinds_that_went_is_shown_and_exported_but_not_gone_on_with(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(Path(shutil.copytree(FIXTURES / "run-format-4", tmp_path / "run")))
    rename(run, FORMER, "discriminant")
    assert run.former_kinds() == ("discriminant_tokens",)
    assert main([*command, "--run-dir", str(run.path)]) == 2
    assert (
        "run: has the kind discriminant_tokens, which excise no longer searches; show or export "
        "its edits, or give another store (--run-dir)"
    ) in " ".join(capsys.readouterr().err.split())
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["show", str(run.path)]) == 0
    assert main(["export", str(run.path), "--save", str(tmp_path / "model")]) == 0
    assert "no reproduce.json is written" in "".join(capsys.readouterr())
    assert (tmp_path / "model" / "config.json").is_file()
    assert not (tmp_path / "model" / "reproduce.json").exists()


def test_a_run_with_trials_found_by_gradients_is_shown_and_made_again_but_not_gone_on_with(
    by_gradients: RunDirectory,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vowels = ["--markers", "a,e,i,o,u"]
    assert main([*command, *vowels, "--run-dir", str(by_gradients.path)]) == 2
    assert (
        "run: has trials of the gradient search, which excise no longer searches; show or export "
        "its edits, or give another store (--run-dir)"
    ) in " ".join(capsys.readouterr().err.split())
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (listed,) = json_lines(capsys.readouterr().out)
    assert (listed["trials"], listed["remark"]) == (3, "")
    assert main(["show", str(by_gradients.path)]) == 0
    assert "refusal_weight" in capsys.readouterr().out
    assert main(["export", str(by_gradients.path), "--save", "model"]) == 0
    # Its strengths are on record, so that only the search cannot be repeated.
    assert main(["reproduce", "model", "again"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "model", "once more", "--repeat-search"]) == 2
    assert "excise no longer has the gradient search" in capsys.readouterr().err


def test_edits_of_kinds_that_are_no_longer_searched_are_compared(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(Path(shutil.copytree(FIXTURES / "run-format-4", tmp_path / "run")))
    rename(run, FORMER, "leace")
    assert main(["compare", str(run.path), str(run.path)]) == 0, capsys.readouterr().err
    assert "No difference is significant" in " ".join(capsys.readouterr().out.split())
