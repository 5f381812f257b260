"""Words and flags taken apart; mistakes are one line and status 2; --help waits for nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from excise.cli.command import GROUPS, app
from excise.cli.main import main
from excise.cli.mistakes import command_first
from excise.config import Settings, flag_name

pytest_plugins = ["cli_support"]
pytestmark = [pytest.mark.usefixtures("elsewhere"), pytest.mark.libraries]

SOURCE = str(Path(__file__).parent.parent / "src")


def one_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake gives."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("excise: ")
    return line


def parsed(*arguments: str) -> tuple[str, tuple[object, ...], dict[str, object]]:
    """The command's name, its words and its flags."""
    command, bound, _ = app.parse_args(
        command_first(arguments), exit_on_error=False, print_error=False
    )
    return command.__name__, bound.args, bound.kwargs


def test_the_first_word_decides() -> None:
    assert parsed("org/model")[0] == "run"
    assert parsed("runs", "--json")[0] == "runs"
    assert parsed("--select", "knee", "chat", "runs/x")[:2] == ("chat", ("runs/x",))
    assert parsed("--json", "runs")[0] == "runs"
    assert parsed("--seed=1", "--json", "bench", "m")[:2] == ("bench", ("m",))
    assert parsed("--select", "chat", "model")[:2] == ("run", ("model",))


def test_a_model_may_be_named_like_a_command() -> None:
    for words in (["./demo"], ["--", "demo"], ["--seed", "1", "--", "demo"]):
        assert parsed(*words)[:2] == ("run", (words[-1],))


def test_words_and_flags_may_be_mixed() -> None:
    command, words, flags = parsed("--seed", "1", "evaluate", "a", "--against=b", "--json")
    assert (command, words) == ("evaluate", ("a",))
    assert flags == {"against": "b", "seed": "1", "json_lines": True}


def test_what_was_not_given_is_left_to_other_places() -> None:
    assert parsed("model")[2] == {}


def test_of_a_value_given_twice_the_last_counts() -> None:
    assert parsed("model", "--seed=1", "--seed", "2", "--yes", "--yes")[2] == {
        "seed": "2",
        "yes": True,
    }


def test_a_list_may_be_given_by_several_flags(capsys: pytest.CaptureFixture[str]) -> None:
    told = one_error(capsys, "m", "--kind", "orthogonal", "--kind=leace,orthogonl")
    assert "--kind=orthogonal,leace,orthogonl: must be one of" in told


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
        (["m", "--select", "kneee"], "--select=kneee: not understood"),
        (["inspct", "m"], "inspct: no such command; did you mean inspect?"),
        (["m", "n"], "n: unexpected argument"),
        (["m", "--seed", "-1"], "--seed=-1: must be at least 0"),
        (["m", "--prefix", "-x"], "--prefix: needs one argument"),
        (["m", "-x"], "-x: no such flag; excise --help lists the flags"),
        (["runs", "--wxyz"], "--wxyz: no such flag; excise runs --help lists the flags"),
        (["m", "--yes=maybe"], "--yes=maybe: must be one of true, false"),
        (["m", "--no-yes"], "--no-yes: no such flag"),
        (["m", "--dtypes", "auto"], "--dtypes: no such flag; did you mean --dtype?"),
        (["chat"], "chat: needs RUN[:TRIAL]|MODEL"),
        (["apply", "e"], "apply: needs EDIT|RUN[:TRIAL] MODEL OUT"),
        (["chat", "m", "--generation-config", "gredy"], "did you mean greedy?"),
        (["runs", "--trials", "3"], "--trials: excise runs takes no such flag"),
        (["m", "--against", "n"], "--against: only excise evaluate takes it"),
        (["evaluate", "m"], "--against ORIGINAL"),
        ([], "no model: name it (excise MODEL)"),
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


COMMANDS = [name for name in app if not name.startswith("-")]


def help_text(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_every_setting_is_in_one_group_of_the_help() -> None:
    grouped = [field for group in GROUPS.values() for field in group]
    assert sorted(grouped) == sorted(field for field in Settings.model_fields if field != "model")


def test_help_names_each_flag_of_its_command_and_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(*words: str) -> set[str]:
        text = help_text(capsys, *words)
        rows = [line.lstrip(" *") for line in text.splitlines()]
        return {row.split()[0] for row in rows if row.startswith("--")}

    everything = {flag_name(field) for group in GROUPS.values() for field in group}
    assert (
        shown()
        == shown("demo") | {"--help", "--version"}
        == everything - {"--config-only"}
        | {
            "--help",
            "--version",
        }
    )
    assert shown("runs") == {"--json"}
    assert shown("show") == {"--json", "--plot"}
    assert {"--against", "--target", "--dtype"} <= shown("evaluate")
    assert not shown("apply") & {"--trials", "--select", "--save"}


def test_help_says_of_a_command_what_holds_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), *((name,) for name in COMMANDS)):
        text = " ".join(help_text(capsys, *words).split())
        name = words[0] if words else ""
        assert text.startswith(f"Usage: excise {name}".strip())
        assert ("Ctrl+C ends the search" in text) == (name in ("", "demo")), name
        told = name not in ("reproduce", "show", "runs")
        assert ("in the environment or in excise.toml" in text) == told, name
        assert ("The search" in text) == (name in ("", "demo", "bench", "evaluate")), name
        assert ("HF_TOKEN" in text) == (name == "upload"), name


def test_help_lists_the_commands_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(capsys)
    for name in COMMANDS:
        assert f" {name} " in text
    assert "[default: 100]" in text
    assert "--trials N" in text


def test_help_imports_nothing_heavy_and_takes_no_time() -> None:
    program = (
        "import json, os, sys; from excise.cli.main import main; status = main(['--help']); "
        "t = os.times(); heavy = [m for m in ('torch', 'transformers', 'optuna', 'numpy') "
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
