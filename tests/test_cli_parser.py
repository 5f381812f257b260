"""Words and flags taken apart; mistakes are one line and status 2; --help waits for nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from excise.cli.commands import CHAT, DEMO, EVALUATE, GROUPS, NAMED, REPRODUCE, RUN, RUNS, SHOW
from excise.cli.help import help_text
from excise.cli.main import main
from excise.cli.parser import parse
from excise.config import flags
from excise.errors import SettingsError

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

SOURCE = str(Path(__file__).parent.parent / "src")


def one_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake gives."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("excise: ")
    return line


def test_the_first_word_decides() -> None:
    assert parse(["org/model"]).command is RUN
    assert parse(["runs", "--json"]).command is RUNS
    assert parse(["--select", "knee", "chat", "runs/x"]).command is CHAT
    assert parse(["./demo"]).command is RUN


def test_words_and_flags_may_be_mixed() -> None:
    line = parse(["--seed", "1", "evaluate", "a", "--against=b", "--json"])
    assert line.command is EVALUATE
    assert (line.words, line.own) == (("a",), {"against": "b"})
    assert line.flags == {"seed": "1", "json_lines": True}


def test_what_was_not_given_is_left_to_other_places() -> None:
    assert parse(["model"]).flags == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["m", "--trails", "5"], "--trails: no such flag; did you mean --trials?"),
        (
            ["m", "--max-new-token=5"],
            "--max-new-token: no such flag; did you mean --max-new-tokens?",
        ),
        (["m", "--trials"], "--trials: needs one argument"),
        (["m", "--trials", "many"], "--trials=many: not a whole number"),
        (["m", "--kind", "orthogonl"], "did you mean orthogonal?"),
        (["m", "--select", "kneee"], "--select kneee: not understood"),
        (["inspct", "m"], "inspct: no such command; did you mean inspect?"),
        (["m", "n"], "n: one too many"),
        (["chat"], "chat: needs RUN[:TRIAL]|MODEL"),
        (["runs", "--trials", "3"], "--trials: excise runs takes no such flag"),
        (["m", "--against", "n"], "--against: only excise evaluate takes it"),
        (["evaluate", "m"], "--against ORIGINAL"),
        ([], "no model: name one (excise MODEL)"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert told in one_error(capsys, *arguments)


def test_the_environment_names_the_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCISE_MODEL", "/no/such/folder")
    assert "/no/such/folder" in one_error(capsys, "inspect")


def test_every_setting_is_in_one_group_of_the_help() -> None:
    grouped = [field for group in GROUPS for field in group.fields]
    assert sorted(grouped) == sorted(flag.field for flag in flags() if flag.field != "model")


@pytest.mark.parametrize("command", [RUN, *NAMED.values()])
def test_help_names_each_flag_of_its_command_and_no_other(command: object) -> None:
    text = help_text(command)  # type: ignore[arg-type]
    shown = {word for word in text.split() if word.startswith("--")}
    wanted = {flag.name for flag in flags() if flag.field in command.fields}  # type: ignore[attr-defined]
    assert wanted <= shown
    if command is RUNS:
        assert shown == {"--json"}


def test_help_says_of_a_command_what_holds_for_it() -> None:
    for command in (RUN, *NAMED.values()):
        text = " ".join(help_text(command).split())
        assert ("Ctrl+C ends the search" in text) == (command in (RUN, DEMO)), command.name
        told = command not in (REPRODUCE, SHOW, RUNS)
        assert ("is also an environment variable" in text) == told, command.name
        assert ("Output:" in text) == bool({"yes", "json_lines"} & command.fields), command.name
        if command.name in ("apply", "upload"):
            assert "The search:" not in text
        assert ("read from HF_TOKEN" in text) == (command.name == "upload"), command.name


def test_help_imports_nothing_heavy_and_takes_no_time() -> None:
    program = (
        "import json, os, sys; from excise.cli.main import main; status = main(['--help']); "
        "t = os.times(); heavy = [m for m in ('torch', 'transformers', 'optuna', 'rich', 'numpy') "
        "if m in sys.modules]; "
        "print(json.dumps([status, heavy, t.user + t.system]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    status, heavy, seconds = json.loads(done.stderr)
    assert (status, heavy) == (0, [])
    assert seconds < 0.5
    assert "Usage:" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("excise 0.")


def test_the_parser_raises_the_projects_own_error() -> None:
    with pytest.raises(SettingsError):
        parse(["--nonsense"])
