"""The study's journal: a checksum of each record, chained; journals of before; and Optuna as a reader."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from excise.errors import RunError
from excise.search.study import Proposals
from excise.store.journal import Journal, mend
from excise.store.stored_study import open_study

RECORDS = [{"op_code": number, "worker_id": "a", "value": 0.1 * number} for number in range(4)]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.log"
    written = Journal(path)
    for record in RECORDS:
        written.append_logs([record])
    return path


def read(path: Path, start: int = 0) -> list[dict[str, object]]:
    return list(Journal(path).read_logs(start))


def test_what_was_written_is_read_without_its_checksums(journal: Path) -> None:
    assert read(journal) == RECORDS
    assert read(journal, 2) == RECORDS[2:]
    # A reader that has read before reads what has come since.
    reader = Journal(journal)
    assert list(reader.read_logs(0)) == RECORDS
    Journal(journal).append_logs([{"op_code": 9}])
    assert list(reader.read_logs(4)) == [{"op_code": 9}]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0], lines[1].replace("0.1", "0.2"), *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        lambda lines: [lines[0], lines[2], lines[1], lines[3]],
        lambda lines: [lines[0], lines[1].replace("crc", "crd"), *lines[2:]],
        lambda lines: [lines[0], "null", *lines[2:]],
    ],
    ids=["changed", "lost", "repeated", "moved", "without a checksum", "of another kind"],
)
def test_a_record_that_is_not_the_one_that_was_written_is_named(
    journal: Path, change: object
) -> None:
    lines = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")  # type: ignore[operator]
    for look in (read, mend):
        with pytest.raises(RunError, match=r"damaged: record \d") as caught:
            look(journal)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [b'{"op_code": 4, "wor', b"\x00\x00\x00", b"\x00\x00\n", b"{}\n"])
def test_a_last_record_that_is_no_whole_one_is_dropped(journal: Path, left: bytes) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole + left)
    assert read(journal) == RECORDS
    assert journal.read_bytes() == whole + left
    assert mend(journal)
    assert journal.read_bytes() == whole
    assert not mend(journal)


def test_a_journal_from_before_checksums_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[:2]), encoding="utf-8")
    Journal(path).append_logs(RECORDS[2:])
    assert read(path) == RECORDS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [("crc" in json.loads(line)) for line in lines] == [False, False, True, True]


def test_optuna_reads_it_as_its_own(tmp_path: Path) -> None:
    """So does whatever is built on Optuna, its dashboard for one."""
    path = tmp_path / "journal.log"
    study = open_study(path, Proposals(0, 2))
    study.tell(study.new(), (3, 0.25), 1.0)
    storage = JournalStorage(JournalFileBackend(str(path)))
    (summary,) = optuna.get_all_study_summaries(storage)
    (trial,) = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    assert trial.values == [3.0, 0.25]
