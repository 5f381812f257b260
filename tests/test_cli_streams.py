"""Whatever the console's encoding, everything can be printed; JSON is UTF-8 everywhere."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import excise
from cli_helpers import json_lines
from excise.cli.conversation import to_standard_output
from excise.cli.main import BROKEN_PIPE, main
from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.streams import SPELLED, take_any_text
from excise.events import Note, StageStarted

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

SOURCES = Path(excise.__file__).parent
STRANGE = "Zoë → 日本 🙂 \u0301 \udcff"
"""A letter of cp1252, a symbol of ours, other scripts, a pair in UTF-16, half of one."""


class Streams:
    """Standard output and standard error as the interpreter opens them where an encoding is set.

    Made in the test itself: pytest puts its own in their place once fixtures are set up.
    """

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        self._out, self._err = io.BytesIO(), io.BytesIO()
        self.out_stream = io.TextIOWrapper(self._out, encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, "stdout", self.out_stream)
        errors = io.TextIOWrapper(self._err, encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, "stderr", errors)

    def out(self, encoding: str | None = None) -> str:
        sys.stdout.flush()
        return self._out.getvalue().decode(encoding or self.encoding)

    def err(self) -> str:
        sys.stderr.flush()
        return self._err.getvalue().decode(self.encoding)


encodings = pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])


def literals(path: Path) -> Iterator[str]:
    """The string constants of a module that are no docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for one in [] if isinstance(node, ast.Expr) else ast.iter_child_nodes(node):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one.value


def test_every_symbol_of_ours_can_be_spelled_out_in_ascii() -> None:
    # What is only looked for in answers, or stands in answers made up for tests, and is never printed.
    lists = (
        SOURCES / "judges" / "phrases",
        SOURCES / "judges" / "reading.py",
        SOURCES / "testing.py",
    )
    modules = [path for path in SOURCES.rglob("*.py") if not {path, *path.parents} & {*lists}]
    used = {one for path in modules for text in literals(path) for one in text}
    symbols = {one for one in used if ord(one) > 127 and not one.isspace()}
    assert {"α", "→", "·", "█"} <= symbols
    looked_for = set("ʼʹ´ς。！")
    assert sorted(symbols - SPELLED.keys() - looked_for) == []
    assert all(text.isascii() and text for text in SPELLED.values())


def test_each_block_of_a_chart_keeps_its_column() -> None:
    from excise.cli import charts

    assert {len(SPELLED[one]) for one in charts._LEVELS if one != " "} == {1}


@encodings
def test_a_whole_run_prints_readably(
    encoding: str, monkeypatch: pytest.MonkeyPatch, small: list[str], tmp_path: Path
) -> None:
    streams = Streams(encoding, monkeypatch)
    folder = tmp_path / "Zoë's läufe → 日本"
    assert main([*small, "--run-dir", str(folder)]) == 0
    out = streams.out()
    assert "layers" in out
    if streams.encoding in ("ascii", "cp1252"):
        assert "attn alpha" not in out
        assert "->" in out or "rho" in out
        assert "\\u65e5\\u672c" in out
        assert "α" not in out
    if streams.encoding == "cp1252":
        assert "Zoë's läufe" in out
        assert " · " in out
    if streams.encoding == "ascii":
        assert " | " in out
    assert main(["show", str(folder)]) == 0
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["show", str(tmp_path / STRANGE)]) == 2
    assert streams.err().startswith("excise: ")


@encodings
def test_answers_and_help_are_printed_whole(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(encoding, monkeypatch)
    take_any_text()
    to_standard_output(STRANGE)
    assert main(["--help"]) == 0
    make_console().print(STRANGE)
    # As a library may, which knows nothing of what excise prints through.
    print(STRANGE)
    out = streams.out()
    assert ("Zoë" in out) == (streams.encoding != "ascii")
    assert out.startswith(
        "Zo\\xeb -> \\u65e5\\u672c \\U0001f642" if streams.encoding == "ascii" else "Zoë"
    )
    assert "\\udcff" in out


@encodings
def test_json_lines_are_utf8_whatever_the_console_is(
    encoding: str, monkeypatch: pytest.MonkeyPatch, small: list[str], tmp_path: Path
) -> None:
    streams = Streams(encoding, monkeypatch)
    folder = tmp_path / "läufe → 日本"
    assert main([*small, "--json", "--run-dir", str(folder)]) == 0
    lines = json_lines(streams.out("utf-8"))
    assert any(str(folder) in str(line) for line in lines)
    assert "\\u" not in streams.out("utf-8")


@encodings
def test_json_of_half_a_surrogate_pair_is_read_as_the_same(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(encoding, monkeypatch)
    write_json({"text": STRANGE})
    assert json.loads(streams.out("utf-8")) == {"text": STRANGE}


def test_a_handler_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr(sys, "stdout", chosen)
    take_any_text()
    assert chosen.errors == "replace"


def test_a_process_without_standard_streams_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["--version"]) == 0
    assert main(["runs"]) == 0
    assert main(["show", "missing"]) == 2


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "excise", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCES.parent), **environment},
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_interpreters_own_streams_are_taken_care_of(finished_run: Path, encoding: str) -> None:
    ran = run_python("show", str(finished_run), PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (ran.returncode, ran.stderr) == (0, b"")
    # The foot of a chart over four layers.
    assert "+----" in ran.stdout.decode(encoding)


def test_nobody_reads_the_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (["--help"], ["runs"]):
        ran = subprocess.run(
            [sys.executable, "-m", "excise", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "PYTHONPATH": str(SOURCES.parent)},
        )
        assert (ran.returncode, ran.stderr) == (BROKEN_PIPE, b""), arguments
    os.close(writing)


def shown(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a terminal gets of a stage and its result."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, highlight=False)
    with Renderer(console) as screen:
        screen(StageStarted("load", "Loading"))
        screen(Note("loaded"))
    return stream.getvalue()


def test_a_terminal_that_moves_no_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(monkeypatch, TERM="dumb")
    assert "loaded" in told
    assert "\x1b" not in told


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1m" in shown(monkeypatch, TERM="xterm-256color")
    plain = shown(monkeypatch, TERM="xterm-256color", NO_COLOR="1")
    # Bold is no colour.
    assert not any(f"\x1b[{colour}" in plain for colour in ("3", "9", "4"))
