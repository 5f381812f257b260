"""Whatever fails and whenever it is killed, a run ends as the study that was never interrupted."""

from __future__ import annotations

import errno
import functools
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import result
from excise.app import run as app_run
from excise.cli.main import main
from excise.edits.edit import Edit
from excise.experiment import measurements
from excise.store import record
from faulty_disk import FaultyDisk, forked, status_of

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def command(model_folder: Path, prompt_flags: list[str]) -> list[str]:
    """A run with start-up trials and proposals of TPE, two candidates at a time, pruned trials too.

    It has no run directory of its own: that is the default one, below the working directory.
    """
    return [
        *(str(model_folder), *prompt_flags, "--yes", "--allow-absent", "--dtype", "float32"),
        *("--trials", "4", "--startup-trials", "2", "--candidates", "2"),
        *("--max-new-tokens", "3", "--batch-size", "8", "--markers", "e,o", "--json"),
    ]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    """What comes before the search is the same each time, and worked out once: it writes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (app_run, "load_model"),
            (measurements, "measure"),
            (measurements, "settle"),
            (measurements, "measure_original"),
            (measurements, "build_bank"),
            (measurements, "measure_unedited"),
            (record, "versions"),
        ):
            patch.setattr(module, name, _once(getattr(module, name)))
        yield


def _once(call: Callable[..., Any]) -> Callable[..., Any]:
    found: list[Any] = []

    @functools.wraps(call)
    def remembered(*arguments: Any, **named: Any) -> Any:
        if not found:
            found.append(call(*arguments, **named))
        return found[0]

    return remembered


def the_run() -> Path:
    (run,) = Path("runs").iterdir()
    return run


def outcome_of(run: Path) -> dict[str, object]:
    """All that a run came to, but for times."""
    told = result(run)
    trials = [{**trial, "seconds": None} for trial in told["trials"]]  # type: ignore[attr-defined]
    edits = {}
    for path in sorted(run.glob("edit-*.safetensors")):
        edit = Edit.load(path)
        edits[path.name] = (
            [edit.u.tolist(), edit.v.tolist(), edit.strengths.tolist()],
            dict(edit.parameters),
            json.dumps(edit.facts, sort_keys=True),
        )
    return {
        "trials": trials,
        "front": told["front"],
        "chosen": told["chosen"],
        "edits": edits,
        "files": sorted(path.name for path in run.iterdir()),
    }


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def uninterrupted(command: list[str], elsewhere: Path) -> dict[str, object]:
    assert main(command) == 0
    found = outcome_of(the_run())
    # Or there would be less to lose.
    states = [trial["state"] for trial in found["trials"]]  # type: ignore[attr-defined]
    assert set(states) == {"complete", "pruned"}
    assert found["files"] == [*sorted(found["edits"]), "journal.log", "result.json", "run.json"]  # type: ignore[call-overload]
    shutil.rmtree("runs")
    return found


def require_readable(run: Path) -> None:
    """What reads a run directory finds no half of anything."""
    if (run / "result.json").exists():
        for number in result(run)["front"]:  # type: ignore[attr-defined]
            Edit.load(run / f"edit-{number}.safetensors")


@pytest.mark.parametrize(
    ("stays", "step"),
    [
        (False, 9),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 4, marks=pytest.mark.slow),
    ],
)
def test_whatever_fails_is_one_line_and_the_next_call_ends_as_if_nothing_had(
    command: list[str],
    uninterrupted: dict[str, object],
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    stays: bool,
    step: int,
) -> None:
    """Every n-th opening, writing, flushing, renaming, deleting, making of a folder, each once.

    stays: everything behind it fails too, what clears up after it included.
    """
    counted = FaultyDisk(elsewhere / "runs")
    with counted.used():
        assert main(command) == 0
    kinds = counted.kinds()
    assert min(kinds[kind] for kind in ("open", "write", "flush", "rename", "mkdir")) > 5
    shutil.rmtree("runs")
    survived = []
    for number in range(0, len(counted.done), step):
        disk = FaultyDisk(elsewhere / "runs", number, stays=stays)
        capsys.readouterr()
        with disk.used():
            status = main(command)
        told, what = lines_of(capsys), counted.done[number]
        if status == 0:
            survived.append((*what, disk.code))
        else:
            assert (number, what, status, len(told)) == (number, what, 2, 1), told
            assert told[0].startswith("excise: "), told
        if Path("runs").exists() and any(Path("runs").iterdir()):
            require_readable(the_run())
        assert main(command) == 0
        assert outcome_of(the_run()) == uninterrupted, (number, what)
        shutil.rmtree("runs")
    # Clearing up may fail, and a folder may be there; what is refused for a moment is tried again; and
    # filelock looks whether the folder's disk can lock.
    run = next(name for operation, name in counted.done if operation == "mkdir" and name != "runs")
    hard = {
        (operation, name, code)
        for operation, name, code in survived
        if operation not in ("unlink", "mkdir") and (operation, name) != ("open", run)
    }
    assert {code for _, _, code in hard} <= {errno.EACCES}, hard


def killed(command: list[str], disk: FaultyDisk) -> bool:
    """Run the command in a process of its own; whether it was killed before its end."""

    def run() -> int:
        with disk.used():
            return main(command)

    return status_of(forked(run)) == -signal.SIGKILL


def test_killed_at_fifty_moments_the_next_call_ends_as_if_it_had_not_been(
    command: list[str], uninterrupted: dict[str, object], elsewhere: Path
) -> None:
    counted = FaultyDisk(elsewhere / "runs", kill=True)
    with counted.used():
        assert main(command) == 0
    shutil.rmtree("runs")
    chance, kills = random.Random(17), []
    while len(kills) < 50:
        number = chance.randrange(len(counted.done))
        if not killed(command, FaultyDisk(elsewhere / "runs", number, kill=True)):
            # It was killed before, and less was left to do.
            assert Path("runs").exists()
        else:
            kills.append(counted.done[number])
            if chance.random() < 0.3:
                continue  # killed once more before anybody lets it finish
        assert main(command) == 0
        assert outcome_of(the_run()) == uninterrupted, (number, kills[-1])
        shutil.rmtree("runs")
    assert kills.count(("write", "journal.log")) >= 10
