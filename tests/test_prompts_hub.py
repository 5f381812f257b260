"""Hub data sets: pinned, from the cache when the hub is down, refused in one line.

Each case runs in a process of its own against a stand-in on this machine; the real hub is never
asked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hub_stand_in import HubStandIn, run_python

# Reads each source; prints for each what came of it, as one JSON list.
READ = """
import json, sys
from excise.config import PromptSource
from excise.errors import ExciseError
from excise.prompts.read import PromptDefaults, read
results = []
for source in {sources!r}:
    try:
        found = read(PromptSource.model_validate(source), PromptDefaults())
        texts = [prompt.text for prompt in found.prompts]
        results.append(dict(texts=texts, origin=found.origin, revision=found.revision))
    except ExciseError as error:
        results.append(dict(kind=type(error).__name__, message=str(error)))
print(json.dumps(results))
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def prompts_folder(tmp_path: Path) -> Path:
    """A repository with a train split in JSON lines and a test split in the same form."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for split, count in (("train", 12), ("test", 5)):
        rows = [json.dumps({"text": f"{split} {number}"}) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


def read_all(hub: HubStandIn, home: Path, sources: list[Any]) -> list[dict[str, Any]]:
    done = run_python(READ.format(sources=sources), hub.environment(home))
    assert done.returncode == 0, done.stderr
    # A library may warn on standard error, but nothing is printed or drawn.
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def test_a_data_set_is_pinned_to_the_commit_that_the_hub_names(
    hub: HubStandIn, prompts_folder: Path, tmp_path: Path
) -> None:
    commit = hub.add_dataset("owner/prompts", prompts_folder)
    absent = {"source": "owner/prompts", "split": "test", "revision": "v9"}
    gated = tmp_path / "gated"
    gated.mkdir()
    hub.add_dataset("owner/gated", gated, gated=True)
    found, column, missing_split, unnamed, beyond, revision, unknown, refused = read_all(
        hub,
        tmp_path / "home",
        [
            "owner/prompts:train[:4]",
            {"source": "owner/prompts", "split": "test", "column": "goal"},
            "owner/prompts:dev",
            "owner/prompts[:4]",
            "owner/prompts:test[:100]",
            absent,
            "owner/unknown:train",
            "owner/gated:train",
        ],
    )
    assert found == {
        "texts": [f"train {number}" for number in range(4)],
        "origin": "owner/prompts, train[:4]",
        "revision": commit,
    }
    downloads = [path for _, path in hub.requests if "/resolve/" in path or "/tree/" in path]
    assert f"/datasets/owner/prompts/resolve/{commit}/train.jsonl" in downloads
    assert all(f"/{commit}" in path for path in downloads)

    assert column["message"].startswith(
        "owner/prompts: no column goal, there is text; did you mean text?"
    )
    assert missing_split["message"].startswith("owner/prompts: no split dev, it has ")
    assert "owner/prompts: name a split, it has " in unnamed["message"]
    assert "test[:100] asks for 100 prompts, the split has 5" in beyond["message"]
    assert revision["message"] == "owner/prompts: no revision v9 on the hub"
    assert unknown["message"].startswith(
        "owner/unknown: no such file or folder here and no such data set"
    )
    errors = (column, missing_split, unnamed, beyond, revision, unknown)
    assert {error["kind"] for error in errors} == {"PromptError"}
    assert refused["kind"] == "HubError"
    assert refused["message"].startswith("owner/gated: it is gated: accept its terms on ")


def test_with_the_hub_down_the_cached_commit_is_read_and_what_else_is_cached_is_named(
    hub: HubStandIn, prompts_folder: Path, tmp_path: Path
) -> None:
    commit = hub.add_dataset("owner/prompts", prompts_folder)
    home = tmp_path / "home"
    (online,) = read_all(hub, home, ["owner/prompts:test"])
    hub.stop()
    cached, other, revision = read_all(
        hub,
        home,
        [
            "owner/prompts:test",
            "owner/other:test",
            {"source": "owner/prompts", "split": "test", "revision": "v9"},
        ],
    )
    assert cached["texts"] == online["texts"] == [f"test {number}" for number in range(5)]
    assert cached["revision"] == online["revision"] == commit
    assert cached["origin"] == "owner/prompts, test, from the cache (the hub is out of reach)"
    assert other["kind"] == revision["kind"] == "HubError"
    assert other["message"].startswith("owner/other: the hub is out of reach (")
    assert other["message"].endswith("; data sets in the cache: owner/prompts")
    assert "revision v9 of it is not cached" in revision["message"]


def test_another_commit_than_the_one_named_is_never_read_in_its_place(
    hub: HubStandIn, prompts_folder: Path, tmp_path: Path
) -> None:
    hub.add_dataset("owner/prompts", prompts_folder)
    home = tmp_path / "home"
    read_all(hub, home, ["owner/prompts:test"])
    (prompts_folder / "test.jsonl").write_text('{"text": "new"}')
    commit = hub.add_dataset("owner/prompts", prompts_folder)
    hub.serves_files = False
    (result,) = read_all(hub, home, ["owner/prompts:test"])
    assert result == {
        "kind": "HubError",
        "message": f"owner/prompts: commit {commit} could not be fetched; try again later",
    }


def test_with_the_hub_down_and_nothing_cached(hub: HubStandIn, tmp_path: Path) -> None:
    hub.stop()
    (result,) = read_all(hub, tmp_path / "home", ["owner/prompts:train"])
    assert result["kind"] == "HubError"
    assert result["message"].endswith("; data sets in the cache: none")
    assert "\n" not in result["message"]


def test_a_parquet_data_set_of_one_split_needs_no_split_named(
    hub: HubStandIn, tmp_path: Path
) -> None:
    folder = tmp_path / "prompts"
    (folder / "data").mkdir(parents=True)
    table = pyarrow.table({"text": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    commit = hub.add_dataset("owner/parquet", folder)
    (found,) = read_all(hub, tmp_path / "home", ["owner/parquet[:2]"])
    assert found == {
        "texts": ["a", "b"],
        "origin": "owner/parquet, train[:2]",
        "revision": commit,
    }


def test_code_of_a_data_set_is_not_run_and_its_card_reads_no_file_of_this_disk(
    hub: HubStandIn, prompts_folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine", encoding="utf-8")
    scripted, pointing = tmp_path / "scripted", tmp_path / "pointing"
    for folder in (scripted, pointing):
        shutil.copytree(prompts_folder, folder)
    ran = tmp_path / "ran"
    (scripted / "scripted.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {secret}\n---\n"
    (pointing / "README.md").write_text(card, encoding="utf-8")
    hub.add_dataset("owner/scripted", scripted)
    hub.add_dataset("owner/pointing", pointing)
    sources = ["owner/scripted:train", "owner/pointing:train"]
    first, second = read_all(hub, tmp_path / "home", sources)
    assert not ran.exists()
    assert "scripts are no longer supported" in first["message"]
    assert second["message"].startswith("owner/pointing: could not be read from the hub")


def test_the_stand_in_serves_a_model_to_snapshot_download(hub: HubStandIn, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    weights = bytes(range(256)) * 40
    (folder / "sub" / "weights.bin").write_bytes(weights)
    commit = hub.add_model("owner/model", folder)
    code = "import huggingface_hub; print(huggingface_hub.snapshot_download('owner/model'))"
    done = run_python(code, hub.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    snapshot = Path(done.stdout.strip())
    assert snapshot.name == commit
    assert (snapshot / "sub" / "weights.bin").read_bytes() == weights
    assert (snapshot / "config.json").read_text() == '{"model_type": "llama"}'
    assert ("GET", f"/owner/model/resolve/{commit}/config.json") in hub.requests
    assert ("GET", "/api/models/owner/model/revision/main") in hub.requests
