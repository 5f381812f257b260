"""Damaged files by the hundred: never a traceback, never a hang, never a wrong result without a word."""

from __future__ import annotations

import random
import re
import shutil
import traceback
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import tiny_model
from excise.errors import first_line
from fuzz_guard import Hang, Outcome, check
from fuzz_kinds import Kind, kinds
from packed_models import write_gguf

pytest_plugins = ["cli_support"]

NAMES = (
    "adapter",
    "adapter weights",
    "config",
    "csv",
    "edit",
    "gguf",
    "index",
    "journal",
    "json",
    "jsonl",
    "old edit",
    "old journal",
    "old result",
    "old run",
    "parquet",
    "parquet of chats",
    "record",
    "result",
    "run",
    "template",
    "txt",
    "weights",
)


@pytest.fixture(scope="module")
def all_kinds(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, finished_run: Path
) -> Mapping[str, Kind]:
    root = tmp_path_factory.mktemp("fuzz")
    sharded = root / "sharded-model"
    shutil.copytree(model_folder, sharded, ignore=shutil.ignore_patterns("*.safetensors"))
    tiny_model().save_pretrained(sharded, max_shard_size="40KB")
    write_gguf(root / "model.gguf")
    return kinds(root / "kinds", model_folder, sharded, root / "model.gguf", finished_run)


def test_every_kind_has_its_test(all_kinds: Mapping[str, Kind]) -> None:
    assert sorted(all_kinds) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_said_in_one_line(
    all_kinds: Mapping[str, Kind], name: str, tmp_path: Path, fuzz_cases: int, elsewhere: Path
) -> None:
    kind = all_kinds[name]
    good = (kind.good / kind.damaged).read_bytes()
    expected = [outcome.result for outcome in _used(kind, tmp_path, good)]
    failures: dict[str, list[str]] = {}
    for number in range(fuzz_cases):
        source = random.Random(zlib.crc32(f"{name} {number}".encode()))
        mutator = source.choice(kind.mutators)
        damaged = mutator(good, source)
        if damaged == good:
            continue
        try:
            for outcome, wanted in zip(_used(kind, tmp_path, damaged), expected, strict=True):
                check(outcome)
                if kind.guarded and outcome.status == 0:
                    require_progress(outcome.result, wanted)
        except (Exception, Hang) as error:
            (tmp_path / f"{name}-{number}").write_bytes(damaged)
            failures.setdefault(_place(error), []).append(
                f"{number} ({mutator.__name__}: {first_line(error)[:120]!r})"
            )
    report = "\n".join(
        f"{where}: {len(them)} cases, such as {', '.join(them[:3])}"
        for where, them in failures.items()
    )
    assert not failures, f"damaged files are kept in {tmp_path}:\n{report}"


def require_progress(result: object, wanted: object) -> None:
    """Raise AssertionError for a result that is not the good file's, and is not said to be damaged."""
    if isinstance(result, list) and isinstance(wanted, list):
        # A journal may end early, as the one of a killed process does, with some trials in hand.
        pairs = zip(result, wanted, strict=False)
        assert all(got == other for got, other in pairs if got.state != "running"), "another study"
        return
    refused = ("damaged", "newer than this excise", "by an older excise", "is a Git LFS pointer")
    # When a file was written last is told by the minute, and says nothing of its contents.
    got, other = (re.sub(r'"date": "[^"]*"', "", str(one)) for one in (result, wanted))
    assert got == other or any(word in got for word in refused), str(result)


def _place(error: BaseException) -> str:
    """Where in excise, or in what it called, an error came from: one fault has many damaged files."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "excise" in frame.filename
    ]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "test"
    return f"{where} {type(error).__name__}"


def _used(kind: Kind, root: Path, content: bytes) -> list[Outcome]:
    """What excise makes of a copy of the kind's folder with these bytes in place of the good ones."""
    place = root / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(kind.good, place)
    (place / kind.damaged).write_bytes(content)
    return kind.use(place, len(content))
