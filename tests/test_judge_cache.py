"""Kept verdicts: found again, whole after a crash, one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.errors import JudgeError
from excise.judges.cache import VerdictCache
from excise.judges.verdict import Exchange, Verdict

ONE, OTHER = Exchange("a", "b"), Exchange("a\nb", "\ud800")
REFUSAL, HELP = Verdict("refusal", 0.25, "ü\n"), Verdict("compliance", 1.0, "")


def cache(folder: Path, judge: str = "j", version: int = 1) -> VerdictCache:
    return VerdictCache(folder, judge, version)


def file_in(folder: Path) -> Path:
    (path,) = folder.glob("*.jsonl")
    return path


def test_verdicts_are_found_again_by_all_that_they_depend_on(tmp_path: Path) -> None:
    with cache(tmp_path / "new" / "folder") as kept:
        assert kept.get(ONE) is None
        kept.add(ONE, REFUSAL)
        kept.add(OTHER, HELP)
        assert kept.get(ONE) == REFUSAL
    folder = tmp_path / "new" / "folder"
    with cache(folder) as kept:
        assert (kept.get(ONE), kept.get(OTHER)) == (REFUSAL, HELP)
        assert kept.get(Exchange("ab", "")) is None
    for other in (cache(folder, judge="k"), cache(folder, version=2)):
        with other as kept:
            assert kept.get(ONE) is None


def test_the_first_verdict_stays(tmp_path: Path) -> None:
    for verdict in (REFUSAL, HELP):
        with cache(tmp_path) as kept:
            kept.add(ONE, verdict)
            assert kept.get(ONE) == REFUSAL
    assert len(file_in(tmp_path).read_bytes().splitlines()) == 1


@pytest.mark.parametrize("left", range(1, 120, 7))
def test_a_torn_last_line_is_dropped(left: int, tmp_path: Path) -> None:
    with cache(tmp_path) as kept:
        kept.add(ONE, REFUSAL)
    first = file_in(tmp_path).read_bytes()
    with cache(tmp_path) as kept:
        kept.add(OTHER, HELP)
    whole = file_in(tmp_path).read_bytes()
    file_in(tmp_path).write_bytes(whole[: len(first) + left])
    with cache(tmp_path) as kept:
        assert (kept.get(ONE), kept.get(OTHER)) == (REFUSAL, None)
        kept.add(OTHER, HELP)
    assert file_in(tmp_path).read_bytes() == whole


def test_a_torn_first_line_is_dropped(tmp_path: Path) -> None:
    with cache(tmp_path) as kept:
        kept.add(ONE, REFUSAL)
    whole = file_in(tmp_path).read_bytes()
    file_in(tmp_path).write_bytes(whole[:20])
    with cache(tmp_path) as kept:
        assert kept.get(ONE) is None
        kept.add(ONE, REFUSAL)
    assert file_in(tmp_path).read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"key": "k"}',
        '{"outcome": "refusal", "probability": 1, "reason": ""}',
        '{"key": "k", "outcome": "refused", "probability": 1, "reason": ""}',
        '{"key": "k", "outcome": "refusal", "probability": "much", "reason": ""}',
    ],
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    with cache(tmp_path) as kept:
        kept.add(ONE, REFUSAL)
    path = file_in(tmp_path)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with pytest.raises(JudgeError, match=r"line 2 is damaged \(.*\); delete the file"):
        cache(tmp_path).__enter__()
    # The lock is free again.
    path.unlink()
    with cache(tmp_path):
        pass


def test_one_process_at_a_time_for_each_judge(tmp_path: Path) -> None:
    with cache(tmp_path) as kept:
        kept.add(ONE, REFUSAL)
        with pytest.raises(JudgeError, match=r"the verdicts of j are in use by process \d+ on"):
            cache(tmp_path).__enter__()
        with cache(tmp_path, judge="k"):
            pass
    assert [path.suffix for path in tmp_path.iterdir() if path.stat().st_size] == [".jsonl"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JudgeError, match="the verdicts cannot be kept here"):
        cache(tmp_path / "file" / "below").__enter__()
