"""Runs with other objectives than the usual ones, and with scorers of other authors, on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import failure, json_lines, result
from excise.cli.main import main
from excise.search.objective import DEFAULT, objectives_in
from test_plug_ins import SOURCE

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

FAILING = SOURCE.replace("fails: bool = False", "fails: bool = True")


@pytest.fixture
def module(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "own_marks.py").write_text(SOURCE, encoding="utf-8")
    yield "own_marks:Marks"
    sys.modules.pop("own_marks", None)


def run_of(small: list[str], *flags: str) -> list[str]:
    return [*small, "--markers", "e,o", "--run-dir", "run", "--yes", *flags]


def test_a_third_objective_goes_everywhere_that_figures_go(
    small: list[str], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--objectives", f"refusals,kl,{module}", "--report", "length")
    assert main([*run_of(small, *flags), "--save", "model", "--select", "marks>=0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "marks, more is better" in shown
    assert "answers with a mark" in shown
    assert "length of answers to control prompts (tokens)" in shown
    told = result(Path("run"))
    assert told["objectives"] == [
        {"name": "refusals", "unit": "prompts", "better": "less"},
        {"name": "kl", "unit": "nats", "better": "less"},
        {"name": "marks", "unit": "prompts", "better": "more"},
    ]
    trials: Any = told["trials"]
    assert all(isinstance(trial["marks"], int) for trial in trials if trial["state"] == "complete")
    chosen: Any = told["chosen"]
    assert list(chosen["search"]) == ["refusals", "kl", "marks", "prompts"]
    assert [each["name"] for each in chosen["held_out"]["further"]] == ["marks", "length"]
    card = Path("model/README.md").read_text(encoding="utf-8")
    assert "| answers with a mark | " in card
    record = json.loads(Path("model/reproduce.json").read_text(encoding="utf-8"))
    assert record["settings"]["objectives"] == ["refusals", "kl", module]
    # The same command goes on; another objective is another study.
    assert main(run_of(small, *flags)) == 0
    line = failure(run_of(small, "--objectives", "refusals,kl"), capsys)
    assert "belongs to other settings (objectives" in line
    # A stranger's files name code in vain.
    capsys.readouterr()
    for command in (["show", "run"], ["runs", "."], ["export", "run", "--save", "again"]):
        sys.modules.pop("own_marks", None)
        assert main(command) == 0, command
        assert "the module runs" not in capsys.readouterr().out
    assert main(["reproduce", "model", "third"]) == 0
    assert "the module runs" not in capsys.readouterr().out
    line = failure(["reproduce", "model", "fourth", "--repeat-search"], capsys)
    assert "names code, and only a flag can let it run" in line


def test_kl_along_answers_takes_the_place_of_the_first_tokens(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--objectives", "refusals,answer_kl", "--select", "answer_kl<=9", "--json")
    assert main([*run_of(small, *flags), "--scorers", '{"answer_kl": {"tokens": 2}}']) == 0
    events = json_lines(capsys.readouterr().out)
    finished = [each for each in events if each["event"] == "TrialFinished"]
    assert all({"refusals", "answer_kl"} <= each.keys() for each in finished)
    assert all("kl" not in each for each in finished)
    front: Any = finished[-1]["front"]
    assert list(front[0]) == ["number", "refusals", "answer_kl"]
    assert main(["show", "run"]) == 0
    assert "answer_kl" in capsys.readouterr().out
    assert main(["runs", ".", "--json"]) == 0
    (listed,) = json_lines(capsys.readouterr().out)
    assert listed["front"][0].keys() == {"number", "refusals", "answer_kl"}  # type: ignore[index]
    told: Any = result(Path("run"))["chosen"]
    assert told["held_out"]["answer_tokens"]["most"] <= 2
    assert "kl<=9" in failure(run_of(small, *flags[:2], "--select", "kl<=9"), capsys)


def test_the_usual_records_name_no_objectives(finished_run: Path) -> None:
    told = result(finished_run)
    assert "objectives" not in told
    assert objectives_in(told) == DEFAULT
    trials: Any = told["trials"]
    keys = ["number", "state", "parameters", "refusals", "kl", "seconds", "reason"]
    assert all(list(trial) == keys for trial in trials)
    run = json.loads((finished_run / "run.json").read_text(encoding="utf-8"))
    assert not {"objectives", "report", "scorers"} & run["settings"].keys()


def test_a_scorer_that_fails_costs_its_own_figure_only(
    small: list[str], tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_marks.py").write_text(FAILING, encoding="utf-8")
    assert main(run_of(small, "--report", f"{module},length")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    note = "scorer marks: failed (RuntimeError: the disk is full); its figure is left out"
    assert note in shown
    chosen: Any = result(Path("run"))["chosen"]
    assert [each["name"] for each in chosen["held_out"]["further"]] == ["length"]


def test_an_objective_that_fails_fails_its_trials(
    small: list[str], tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # It fails on the first trial, as a full disk may.
    once = SOURCE.replace('print("the module runs")', "CALLS = []").replace(
        "if self.fails:", "CALLS.append(1)\n        if len(CALLS) == 1:"
    )
    (tmp_path / "own_marks.py").write_text(once, encoding="utf-8")
    assert main(run_of(small, "--objectives", f"refusals,kl,{module}", "--candidates", "1")) == 0
    trials: Any = result(Path("run"))["trials"]
    assert [trial["state"] for trial in trials].count("failed") == 1
    assert trials[0]["reason"] == "scorer marks: failed (RuntimeError: the disk is full)"
    assert trials[0]["marks"] is None
    capsys.readouterr()
    (tmp_path / "own_marks.py").write_text(FAILING, encoding="utf-8")
    sys.modules.pop("own_marks")
    other = [*run_of(small, "--objectives", f"refusals,kl,{module}"), "--run-dir", "other"]
    line = failure(other, capsys)
    assert "10 trials in a row failed: scorer marks: failed (RuntimeError: the disk" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--objectives", "refusals,kll"), "scorer kll: unknown; there are refusals"),
        (("--report", "nowhere:Marks"), "scorer nowhere:Marks: cannot be loaded"),
        (("--scorers", '{"kll": {}}'), "scorers.kll: there are settings, but no scorer"),
        (
            ("--select", "length<=3"),
            "not understood; give knee, fewest, a trial's number, \"refusals",
        ),
    ],
)
def test_a_wrong_name_is_refused_before_the_work(
    small: list[str], flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in failure(run_of(small, *flags), capsys)
    assert not Path("run").exists()
