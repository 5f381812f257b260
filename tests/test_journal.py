"""The journal of a study: what is appended is there whole or not at all, and a torn end is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from cli_helpers import json_lines, result
from excise.cli.main import main
from excise.errors import RunError, SaveError
from excise.search.journal import Journal, mend
from excise.search.study import Study
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


@pytest.mark.parametrize(
    "torn",
    [
        lambda last: last[:-1],
        lambda last: last[:20],
        lambda last: last[:20] + b"\n",
        lambda last: b"\0" * len(last),
        lambda last: last[:30] + b"\0" * 4096,
        lambda last: b"\0\n",
        lambda last: b"\n",
        lambda last: last.replace(b'"number":2', b'"number":3'),
        lambda last: last.replace(b"excise", b"\xff\xfe"),
    ],
)
def test_a_last_record_that_is_cut_short_or_damaged_is_dropped(
    torn: Callable[[bytes], bytes], written: Path
) -> None:
    *kept, last = lines(written)
    written.write_bytes(b"".join(kept) + torn(last))
    assert mend(written)
    assert lines(written) == kept
    assert not mend(written)
    Journal(written).append_logs([{**RECORD, "number": 2}])
    assert lines(written) == [*kept, last]


def test_what_is_whole_is_not_mended(written: Path, elsewhere: Path) -> None:
    before = written.read_bytes()
    assert not mend(written)
    assert written.read_bytes() == before
    assert not mend(elsewhere / "none")
    written.write_bytes(b"")
    assert not mend(written)


def test_reading_leaves_a_torn_record_out_and_the_file_as_it_is(written: Path) -> None:
    torn = written.read_bytes()[:-7]
    written.write_bytes(torn)
    journal = Journal(written)
    assert [record["number"] for record in journal.read_logs(0)] == [0, 1]
    assert [record["number"] for record in journal.read_logs(1)] == [1]
    assert list(journal.read_logs(2)) == []
    assert written.read_bytes() == torn
    # Whoever appends writes anyway: onto no torn record.
    journal.append_logs([{**RECORD, "number": number} for number in (2, 3)])
    assert [record["number"] for record in Journal(written).read_logs(0)] == [0, 1, 2, 3]


def test_journals_from_before_there_were_checks_go_on_and_optuna_reads_both(
    elsewhere: Path,
) -> None:
    path = elsewhere / "journal.log"
    old = json.dumps(RECORD).encode() + b"\n"
    path.write_bytes(old + b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"a":1}}\n')
    journal = Journal(path)
    more = {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"b": 2}}
    for _ in range(2):
        journal.append_logs([more])
    assert list(Journal(path).read_logs(2)) == [more, more]
    backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
    assert optuna.load_study(study_name="excise", storage=JournalStorage(backend)).user_attrs == {
        "a": 1,
        "b": 2,
    }
    # None is without a check once one has had one.
    path.write_bytes(path.read_bytes() + old + old)
    with pytest.raises(RunError, match=r"damaged \(line 5 lacks its check\)"):
        list(Journal(path).read_logs(0))


@pytest.mark.parametrize("what", ["open", "write", "flush"])
@pytest.mark.parametrize("stays", [False, True])
def test_an_append_that_fails_leaves_nothing_and_the_next_one_works(
    what: str, stays: bool, written: Path
) -> None:
    journal, whole = Journal(written), written.read_bytes()
    at = ["open", "write", "flush"].index(what)
    with (
        FaultyDisk(written.parent, at, stays=stays).used() as disk,
        pytest.raises(
            SaveError, match=r"journal\.log: could not be written \(.*\); what was in it"
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


def study(path: Path) -> Study:
    return Study(path, seed=0, startup_trials=1, anchors=[{"x": 0.5}])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[:10] + text[11:], "line 1 is not what was written there"),
        (lambda text: text.replace(b'"study_id":0', b'"study_id":1', 1), "line 2 is not what was"),
        (lambda text: text.replace(b'"study_id":0', b'"study_id":"zero"', 1), "line 2 is not"),
        (lambda text: b"[]\n" + text, "line 1 is no record"),
        (lambda text: b"\0" * 40 + b"\n" + text, "line 1 is no JSON"),
        (lambda text: text.split(b"\n", 1)[1], "line 1 is not what was written there"),
        (lambda text: text + text, "line 3 is not what was written there"),
        (lambda text: b'{"op_code":99,"worker_id":"w"}\n', ""),
        (lambda text: b"{}\n", ""),
        (lambda text: b'{"op_code":4,"worker_id":"w","study_id":[]}\n', ""),
    ],
)
def test_damage_is_one_line(damage: Callable[[bytes], bytes], told: str, elsewhere: Path) -> None:
    path = elsewhere / "journal.log"
    study(path)
    text = path.read_bytes()
    path.write_bytes(damage(text))
    assert path.read_bytes() != text
    with pytest.raises(RunError, match=rf"journal\.log: damaged \({told}") as error:
        study(path)
    assert "\n" not in str(error.value)


def test_no_bit_of_a_journal_can_be_changed_unseen(written: Path) -> None:
    whole, before = written.read_bytes(), lines(written)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        written.write_bytes(flipped)
        # The last line is dropped (two, if it was the line's end between them), and that is said.
        if mend(written):
            kept = 1 if position == len(b"".join(before[:2])) - 1 else 2
            assert lines(written) == before[:kept]
            continue
        with pytest.raises(RunError, match="damaged"):
            list(Journal(written).read_logs(0))


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
        if line["event"] == "Note" and "cut short" in str(line["text"])
    ]
    assert notes == [
        "torn: the last record of the journal was cut short or damaged, as by a full disk or a power "
        "failure; it is dropped, and the study goes on from the one before"
    ]
    torn, whole = (
        [{**trial, "seconds": None} for trial in result(elsewhere / name)["trials"]]  # type: ignore[attr-defined]
        for name in ("torn", "whole")
    )
    assert torn == whole
