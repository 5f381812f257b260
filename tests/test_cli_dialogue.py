"""The dialogue, driven by answers given in advance."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli_helpers import Script, result, settings_of
from excise.cli.render import Renderer
from excise.cli.run_command import run_attended
from excise.cli.screen import make_console

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def attended(arguments: list[str], script: Script) -> None:
    settings = settings_of(arguments)
    with Renderer(make_console()) as screen:
        run_attended(settings, screen, script)


def test_choose_save_search_on_and_quit(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    script = Script(
        "99",  # not on the front: told, and asked again
        "",  # the knee
        "x",  # no such action
        *("s", str(tmp_path / "model")),
        *("s", str(tmp_path / "model")),  # there already: told, nothing lost
        *("a", ""),  # into the proposed folder
        "o",
        "fewest",
        *("m", "none"),
        *("m", "2"),
        "q",
    )
    attended([*small, "--run-dir", str(run)], script)
    out = capsys.readouterr().out
    for told in ("not on the front", "one of s, a, c, m, o, q", "already exists", "not a number"):
        assert told in out
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert list(run.glob("adapter-*/adapter_model.safetensors"))
    assert len(result(run)["trials"]) == 5
    assert out.count("Pareto front") == 3


def test_the_end_of_the_input_quits(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attended([*small, "--run-dir", str(tmp_path / "run"), "--select", "knee"], Script())
    # What the flags answered was not asked.
    assert "on held-out prompts" in capsys.readouterr().out
    assert result(tmp_path / "run")["chosen"] is not None


def test_chat_in_the_dialogue(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script("", "c", "hello", "/quit", "q")
    attended([*small, "--run-dir", str(tmp_path / "run")], script)
    assert script.questions[-3:-1] == ["\nyou: ", "\nyou: "]
    assert "\nmodel: " in capsys.readouterr().out


def test_the_end_of_the_input_at_the_first_question_quits(
    small: list[str], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attended([*small, "--run-dir", str(finished_run)], Script())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answer", "beside", "trials"), [("q", False, None), ("n", True, 3), ("", False, 3)]
)
def test_a_run_that_is_there_is_asked_about_before_anything_is_loaded(
    small: list[str],
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    beside: bool,
    trials: int | None,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    script = Script("what?", answer, "q")
    attended([*small, "--run-dir", str(run)], script)
    assert script.questions[0] == script.questions[1]
    assert "A complete run of 3 trials" in script.questions[0]
    assert (tmp_path / "run-2").exists() == beside
    if trials is None:
        assert "device" not in capsys.readouterr().out
    else:
        assert len(result(tmp_path / ("run-2" if beside else "run"))["trials"]) == trials
