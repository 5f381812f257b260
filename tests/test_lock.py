"""The lock of a run directory: one process writes, others are told which; readers are not held up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_helpers import Script, result
from excise.cli.main import main
from excise.cli.run_command import run_attended
from excise.cli.screen import JsonLines
from excise.config import gather
from excise.errors import RunError
from excise.search.study import DONE
from excise.system.lock import Busy, ProcessLock
from faulty_disk import FaultyDisk, forked, status_of

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

_HOLD = """
import sys, time
if {blocked}: sys.modules["fcntl"] = None
from pathlib import Path
from excise.system.lock import ProcessLock
lock = ProcessLock(Path({path!r}))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
_TAKE = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from excise.system.lock import ProcessLock
with ProcessLock(Path({path!r})):
    print("taken")
"""


@contextmanager
def held(path: Path, *, without_locks: bool = False) -> Iterator[subprocess.Popen[str]]:
    """The lock at `path`, held by another process. without_locks: as where the system has none."""
    script = _HOLD.format(path=str(path), blocked=without_locks)
    with python(script) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def python(script: str) -> subprocess.Popen[str]:
    source = str(Path(__file__).parent.parent / "src")
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_who_holds_it_is_said_and_nothing_of_it_is_left(elsewhere: Path) -> None:
    path = elsewhere / "run.lock"
    with held(path) as process:
        with pytest.raises(Busy) as busy:
            ProcessLock(path).acquire()
        holder = busy.value.holder
        assert holder is not None
        assert holder.pid == process.pid
        assert str(holder).startswith(f"process {process.pid} on {os.uname().nodename}, since 20")
    with ProcessLock(path):
        assert sorted(one.name for one in elsewhere.iterdir()) == ["run.lock", "run.lock.json"]
        # Not of the process alone: what opens a run twice is told so too.
        with pytest.raises(Busy, match=f"process {os.getpid()} "):
            ProcessLock(path).acquire()
    assert list(elsewhere.iterdir()) == []


def test_the_note_is_not_written_through_a_link(elsewhere: Path) -> None:
    (elsewhere / "precious").write_text("mine")
    (elsewhere / "run.lock.json").symlink_to("precious")
    with ProcessLock(elsewhere / "run.lock"):
        assert (elsewhere / "precious").read_text() == "mine"
        assert json.loads((elsewhere / "run.lock.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("without_locks", [False, True])
def test_a_dead_process_holds_nothing(elsewhere: Path, without_locks: bool) -> None:
    path = elsewhere / "run.lock"
    with held(path, without_locks=without_locks) as process:
        process.kill()
        process.wait()
    assert path.exists()
    started = time.monotonic()
    if without_locks:
        with python(_TAKE.format(path=str(path))) as taker:
            assert taker.stdout is not None
            assert taker.stdout.read() == "taken\n"
    else:
        with ProcessLock(path):
            assert time.monotonic() - started < 10
    assert list(elsewhere.iterdir()) == []


def test_the_note_of_a_dead_process_is_not_believed(elsewhere: Path) -> None:
    path = elsewhere / "run.lock"
    with held(path) as process:
        note = elsewhere / "run.lock.json"
        told = json.loads(note.read_text())
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            pass
        for text in (json.dumps({**told, "pid": gone.pid}), "{", ""):
            note.write_text(text)
            with pytest.raises(Busy, match=r"^another process$"):
                ProcessLock(path).acquire()
        note.write_text(json.dumps({**told, "pid": gone.pid, "host": "elsewhere"}))
        with pytest.raises(Busy, match=f"process {gone.pid} on elsewhere"):
            ProcessLock(path).acquire()
        assert process.poll() is None


def test_what_cannot_be_locked_is_not_called_busy(elsewhere: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ProcessLock(Path("/proc/run.lock")).acquire()


def test_a_second_process_is_told_in_one_line_and_changes_nothing(
    small: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*small, "--yes", "--run-dir", "runs/mine"]
    assert main(command) == 0
    with held(elsewhere / "runs" / "mine" / "run.lock") as process:
        before = snapshot(elsewhere)
        capsys.readouterr()
        assert main([*command, "--trials", "9"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"excise: runs/mine: process {process.pid} on ")
        assert line.endswith(
            ", is working on this run; wait until it ends, stop it, or give another store (--run-dir)"
        )
        assert snapshot(elsewhere) == before
        # Where somebody is there to answer, it is said before they are asked.
        settings = gather({"model": small[0], "run_dir": "runs/mine"}, {}, Path(os.devnull))
        with pytest.raises(RunError, match="is working on this run"):
            run_attended(settings, JsonLines(), Script("g"))
    assert main([*command, "--trials", "4"]) == 0
    assert not list(Path("runs/mine").glob("run.lock*"))


def test_two_that_begin_at_once_and_one_of_them_ends_it(small: list[str], elsewhere: Path) -> None:
    command = [*small, "--yes", "--json", "--run-dir", "run"]
    statuses = sorted(status_of(each) for each in [forked(lambda: main(command)) for _ in range(2)])
    # Unless one was through before the other had begun.
    assert statuses in ([0, 2], [0, 0])
    assert sum(trial["state"] in DONE for trial in result(elsewhere / "run")["trials"]) == 3  # type: ignore[attr-defined]
    assert main(command) == 0


def test_reading_commands_work_beside_a_search_and_write_nothing(
    small: list[str],
    prompt_flags: list[str],
    finished_run: Path,
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished_run, elsewhere / "runs" / "mine")
    run = elsewhere / "runs" / "mine"
    # Beside a search there are files half-written, and a last record too.
    (run / ".result.json.1.partial").write_text("{")
    with (run / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":')
    (run / "gone").symlink_to("nowhere")
    monkeypatch.setattr("builtins.input", Script())
    with held(run / "run.lock"):
        before = snapshot(run)
        for words in (
            ["runs"],
            ["runs", "--json"],
            ["show", "runs/mine"],
            ["export", "runs/mine", "--save", "model", "--adapter", "adapter"],
            ["compare", "runs/mine", "runs/mine"],
            ["chat", "runs/mine"],
            ["apply", "runs/mine", small[0], "applied"],
            ["evaluate", small[0], *prompt_flags, "--against", "model"],
            ["reproduce", "model", "again"],
        ):
            assert main(words) == 0, (words, capsys.readouterr().err)
        assert snapshot(run) == before


def test_a_folder_that_is_no_run_gets_no_lock(
    small: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "thesis.txt").write_text("precious")
    assert main([*small, "--yes", "--run-dir", "mine"]) == 2
    assert "not empty and not a run directory" in capsys.readouterr().err
    assert [path.name for path in (elsewhere / "mine").iterdir()] == ["thesis.txt"]
    (elsewhere / "file").write_text("precious")
    assert main([*small, "--yes", "--run-dir", "file"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("excise: file: ")
    assert (elsewhere / "file").read_text() == "precious"


def test_a_killed_run_goes_on_at_once_where_there_are_no_symbolic_links(
    small: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT, and on Windows without its developer mode; the run directory is relative."""
    command = [*small, "--yes", "--json", "--trials", "4"]

    def run_until_killed() -> int:
        with FaultyDisk(elsewhere / "runs", 60, kill=True).used():
            return main(command)

    assert status_of(forked(run_until_killed)) == -signal.SIGKILL
    (run,) = Path("runs").iterdir()
    # What excise left once, and hung at.
    (run / "journal.log.lock").symlink_to(run / "journal.log")

    def refused(*arguments: object, **named: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    assert main(["runs"]) == 0
    assert main(command) == 0
    assert not [path for path in run.iterdir() if "lock" in path.name]
