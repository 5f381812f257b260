"""Uploads through xet: the way that large files take where hf_xet is installed, as it is by default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from excise.errors import HubError
from excise.events import Event
from excise.hub.events import FileUploaded, Uploaded
from excise.hub.folder import open_upload
from excise.hub.upload import upload
from hub_uploads import NAME, TOKEN
from hub_xet import XET_TOKEN, XetStandIn

pytest_plugins = ["upload_support"]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two shards of random bytes, large enough for the storage of large files."""
    folder = tmp_path / "model"
    folder.mkdir()
    for seed, shard in enumerate(SHARDS):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(0, 256, (1_200_000,), generator=generator, dtype=torch.uint8)
        save_file({f"{seed}": values}, folder / shard)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Edited\n")
    return folder


def send(hub: XetStandIn, folder: Path) -> list[Event]:
    told: list[Event] = []
    upload(
        open_upload(folder), NAME, TOKEN, told.append, public=False, replace=lambda reason: False
    )
    return told


def visible(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_uploaded_whole(xet_hub: XetStandIn, folder: Path, tmp_path: Path) -> None:
    told = send(xet_hub, folder)
    assert xet_hub.files(NAME) == visible(folder)
    assert xet_hub.commits[NAME] == [set(visible(folder))]
    assert [one.name for one in told if isinstance(one, FileUploaded)] == list(SHARDS)
    # Through xet, and not by the older way.
    assert len(xet_hub.xorbs) == len(xet_hub.shards) == 2
    assert not [one for one in xet_hub.received if one.path.startswith("/storage/")]
    # The storage has a token of its own, and the place that takes the bytes has none.
    bearers = {one.path.split("/")[1]: one.headers.get("authorization") for one in xet_hub.received}
    assert bearers["cas"] == f"Bearer {XET_TOKEN}"
    assert bearers["grants"] is None
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path
    # Once more: it is there already.
    (done,) = [one for one in send(xet_hub, folder) if isinstance(one, Uploaded)]
    assert done.unchanged


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [
        ("GET", "/xet-write-token/", 403),
        ("POST", "/xorb-grants/", 403),
        ("PUT", "/grants/", 400),
        ("POST", "/shards", 400),
    ],
)
def test_a_failure_shows_nothing_and_the_same_call_goes_on_from_there(
    xet_hub: XetStandIn, folder: Path, method: str, place: str, status: int
) -> None:

    def fail_second(told: Event) -> None:
        if isinstance(told, FileUploaded):
            xet_hub.fail(method, place, status=status, message=TOKEN, times=50)

    with pytest.raises(HubError) as caught:
        upload(open_upload(folder), NAME, TOKEN, fail_second, public=False, replace=lambda _: False)
    line = str(caught.value)
    assert line.startswith(f"{NAME}: uploading {SHARDS[1]} (nothing is visible yet): ")
    assert "\n" not in line
    assert TOKEN not in line
    assert xet_hub.files(NAME) == {}
    xet_hub.failures.clear()
    send(xet_hub, folder)
    assert xet_hub.files(NAME) == visible(folder)
    assert sorted(xet_hub.stored) == sorted(map(open_upload(folder).sha256, SHARDS))
