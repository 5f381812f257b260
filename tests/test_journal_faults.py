"""The journal on a disk that fails: what is appended is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_helpers import json_lines, result
from excise.cli.main import main
from excise.errors import SaveError
from excise.store.journal import Journal
from faulty_disk import FaultyDisk

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

RECORD = {"op_code": 0, "worker_id": "w", "study_name": "excise", "directions": [1, 1]}


@pytest.fixture
def written(elsewhere: Path) -> Path:
    """A journal of three records."""
    path = elsewhere / "journal.log"
    for number in range(3):
        Journal(path).append_logs([{**RECORD, "number": number}])
    return path


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("what", ["open", "write", "flush"])
@pytest.mark.parametrize("stays", [False, True])
def test_an_append_that_fails_leaves_nothing_and_the_next_one_works(
    what: str, stays: bool, written: Path
) -> None:
    journal, whole = Journal(written), written.read_bytes()
    with FaultyDisk(written.parent).used() as counted:
        Journal(written).append_logs([RECORD])
    at = [operation for operation, _ in counted.done].index(what)
    written.write_bytes(whole)
    with (
        FaultyDisk(written.parent, at, stays=stays).used() as disk,
        pytest.raises(
            SaveError, match=r"journal\.log: could not be written \(.*\); its earlier records"
        ),
    ):
        journal.append_logs([{**RECORD, "number": 3}])
    assert disk.done[at][0] == what
    assert written.read_bytes().startswith(whole)
    if not stays:
        assert written.read_bytes() == whole
    journal.append_logs([{**RECORD, "number": 4}])
    found = [record["number"] for record in Journal(written).read_logs(0)]
    # One whose flush failed, on a disk where it could not be taken back either, is there.
    assert found == [0, 1, 2, *([3] if stays and what == "flush" else []), 4]


def test_interrupted_in_the_middle_of_a_record_it_is_taken_back(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(elsewhere / "journal.log")
    journal.append_logs([RECORD])
    whole = (elsewhere / "journal.log").read_bytes()

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append_logs([RECORD])
    assert (elsewhere / "journal.log").read_bytes() == whole


def test_a_run_whose_journal_was_torn_goes_on_and_says_so(
    small: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*small, "--yes", "--json", "--trials", "4"]
    assert main([*command, "--run-dir", "whole"]) == 0
    assert main([*command[:-1], "2", "--run-dir", "torn"]) == 0
    path = elsewhere / "torn" / "journal.log"
    path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    assert main([*command, "--run-dir", "torn"]) == 0
    notes = [
        str(line["text"])
        for line in json_lines(capsys.readouterr().out)
        if line["event"] == "Note" and "incomplete" in str(line["text"])
    ]
    assert notes == [
        "torn: the last record of the journal was incomplete or damaged, as by a full disk or a power "
        "failure; it was dropped, and the study continues from the record before"
    ]
    torn, whole = (
        [{**trial, "seconds": None} for trial in result(elsewhere / name)["trials"]]  # type: ignore[attr-defined]
        for name in ("torn", "whole")
    )
    assert torn == whole
