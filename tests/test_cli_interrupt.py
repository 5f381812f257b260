"""Ctrl+C: the first ends the search after the trial in hand, the second at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cli_helpers import json_lines, read_until, result, settings_of, start_excise
from excise.cli.interrupt import STOPPING, StopOnInterrupt
from excise.cli.main import main
from excise.cli.run_command import run_unattended, start
from excise.cli.screen import JsonLines
from excise.cli.search import search
from excise.events import Event
from excise.search.events import TrialFinished
from excise.search.study import DONE

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


class InterruptedAfter(JsonLines):
    """Ctrl+C is pressed `times` after the first trial."""

    def __init__(self, times: int) -> None:
        self._times = times

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, TrialFinished):
            for _ in range(self._times):
                signal.raise_signal(signal.SIGINT)


def test_first_asks_second_interrupts_and_the_old_handler_returns() -> None:
    announced: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    with StopOnInterrupt(lambda: announced.append(True)) as interrupt:
        assert not interrupt.requested()
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested()
        assert announced == [True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_search_still_chooses(
    small: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of([*small, "--trials", "9"])
    finished = run_unattended(settings, InterruptedAfter(1))
    out, err = capfd.readouterr()
    assert STOPPING in err
    (ended,) = [event for event in json_lines(out) if event["event"] == "SearchEnded"]
    assert ended["why"] == "stopped"
    assert finished.outcome.trial == 0
    assert finished.run.study.done() == 1


def test_pressed_twice_it_says_how_to_go_on(
    small: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    screen = InterruptedAfter(2)
    run = start(settings_of([*small, "--trials", "9"]), screen)
    with pytest.raises(KeyboardInterrupt, match="continue with the same command"):
        search(run, screen)
    assert run.study.done() == 1


def test_interrupted_elsewhere_is_status_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: list[str]
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("excise.experiment.inspection.load", interrupted)
    assert main(["inspect", small[0]]) == 130
    assert capsys.readouterr().err == "excise: interrupted\n"


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*small, "--trials", "12"]
    process = start_excise([*arguments, "--json", "--run-dir", str(tmp_path / "killed")])
    finished = 0

    def third_trial(line: str) -> bool:
        nonlocal finished
        finished += '"TrialFinished"' in line
        return finished == 3

    try:
        read_until(process, third_trial)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = sum(trial["state"] in DONE for trial in result(tmp_path / "killed")["trials"])
    assert 3 <= done < 12

    assert main([*arguments, "--run-dir", str(tmp_path / "killed")]) == 0
    assert f"A run with {done} of 12 trials" in capsys.readouterr().out
    assert main([*arguments, "--run-dir", str(tmp_path / "whole")]) == 0
    killed, whole = (result(tmp_path / name)["trials"] for name in ("killed", "whole"))
    assert [trial["number"] for trial in killed] == list(range(12))
    assert [trial["parameters"] for trial in killed] == [trial["parameters"] for trial in whole]


def test_every_signal_by_which_a_system_interrupts_asks_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows has Ctrl+Break besides, and sends nothing else to a process of a group of its own."""
    signals = (signal.SIGINT, signal.SIGUSR1)
    monkeypatch.setattr("excise.cli.interrupt.interrupt_signals", lambda: signals)
    before = [signal.getsignal(one) for one in signals]
    with StopOnInterrupt(lambda: None) as interrupt:
        signal.raise_signal(signal.SIGUSR1)
        assert interrupt.requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR1)
    assert [signal.getsignal(one) for one in signals] == before


def test_ctrl_c_reaches_a_process_of_its_own_as_a_console_sends_it(
    small: list[str], tmp_path: Path
) -> None:
    process = start_excise([*small, "--trials", "500", "--json", "--run-dir", str(tmp_path / "x")])
    try:
        read_until(process, lambda line: '"TrialFinished"' in line)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    told = json_lines(out)
    (ended,) = [event for event in told if event["event"] == "SearchEnded"]
    assert ended["why"] == "stopped"
    assert any(event["event"] == "Chosen" for event in told)
