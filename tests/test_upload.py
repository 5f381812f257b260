"""Uploads to a stand-in of the hub: one commit, nothing sent twice, failures in one line, no token told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from excise.errors import HubError, SaveError
from excise.events import Event, Note
from excise.hub.events import FileUploaded, Uploaded
from excise.hub.folder import open_upload
from excise.hub.upload import upload
from hub_uploads import NAME, TOKEN, UploadStandIn

pytest_plugins = ["upload_support"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two shards of more than a megabyte."""
    folder = tmp_path / "model"
    folder.mkdir()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for seed, (tensor, shard) in enumerate(shards.items()):
        torch.manual_seed(seed)
        save_file({tensor: torch.randn(600, 500)}, folder / shard)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Edited\n")
    (folder / ".hidden").write_text("stays here")
    return folder


Told = list[Event]


def send(
    hub: UploadStandIn,
    folder: Path,
    *,
    name: str = NAME,
    public: bool = False,
    replace: Callable[[str], bool] = lambda reason: False,
    token: str = TOKEN,
) -> Told:
    told: Told = []
    upload(
        open_upload(folder),
        name,
        token,
        told.append,
        public=public,
        replace=replace,
    )
    return told


def refused(hub: UploadStandIn, folder: Path, **how: object) -> str:
    """The one line that an upload ends with, which never holds the token."""
    with pytest.raises(HubError) as caught:
        send(hub, folder, **how)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    # A traceback must not show the request, which holds it.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def visible(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_a_folder_is_uploaded_whole_and_private_in_one_commit(
    hub: UploadStandIn, folder: Path
) -> None:
    told = send(hub, folder)
    assert hub.made[NAME].private
    assert hub.files(NAME) == visible(folder)
    assert hub.commits[NAME] == [set(visible(folder))]
    assert [event.name for event in told if isinstance(event, FileUploaded)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    (done,) = [event for event in told if isinstance(event, Uploaded)]
    assert done.url == f"{hub.endpoint}/{NAME}"
    assert done.commit == hub.repositories[f"models/{NAME}"].commit
    assert done.private
    assert not done.unchanged


def test_what_was_uploaded_can_be_downloaded(
    hub: UploadStandIn, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    send(hub, folder, public=True)
    # Addresses of files are made from what it was on import, with the endpoint in its place.
    monkeypatch.setattr(constants, "ENDPOINT", constants._HF_DEFAULT_ENDPOINT)
    assert not hub.made[NAME].private
    there = snapshot_download(NAME, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    assert visible(Path(there)) == visible(folder)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ({"status": 500, "times": 6}, "the hub fails (status 500); the same command resumes"),
        ({"drop": "before", "times": 6}, "the connection failed ("),
        ({"status": 403, "message": "Quota"}, "no write permission"),
    ],
)
def test_a_failure_in_mid_upload_shows_nothing_and_the_same_call_goes_on_from_there(
    hub: UploadStandIn, folder: Path, failure: dict[str, object], said: str
) -> None:
    examined_first = open_upload(folder).sha256("model-00001-of-00002.safetensors")
    second = open_upload(folder).sha256("model-00002-of-00002.safetensors")
    hub.fail("PUT", f"/storage/{second}", **failure)
    line = refused(hub, folder)
    assert line.startswith(
        f"{NAME}: uploading model-00002-of-00002.safetensors (nothing is visible yet): "
    )
    assert said in line
    assert hub.files(NAME) == {}
    assert hub.stored == [examined_first]
    send(hub, folder)
    assert hub.files(NAME) == visible(folder)
    assert hub.stored == [examined_first, second]
    assert len(hub.commits[NAME]) == 1


def test_a_short_failure_is_survived_without_a_word(hub: UploadStandIn, folder: Path) -> None:
    hub.fail("PUT", "/storage/", drop="before", times=2)
    hub.fail("PUT", "/storage/", status=503, times=1)
    send(hub, folder)
    assert hub.files(NAME) == visible(folder)


def test_a_commit_that_fails_leaves_nothing_and_sends_nothing_twice(
    hub: UploadStandIn, folder: Path
) -> None:
    hub.fail("POST", "/commit/", status=502)
    assert "committing (nothing is visible yet): the hub fails (status 502)" in refused(hub, folder)
    assert hub.files(NAME) == {}
    send(hub, folder)
    assert hub.files(NAME) == visible(folder)
    assert len(hub.stored) == 2


def test_a_commit_whose_answer_was_lost_is_found_to_be_there(
    hub: UploadStandIn, folder: Path
) -> None:
    hub.fail("POST", "/commit/", drop="after")
    assert "the connection failed" in refused(hub, folder)
    assert hub.files(NAME) == visible(folder)
    told = send(hub, folder)
    assert isinstance(told[-1], Uploaded)
    assert told[-1].unchanged
    assert len(hub.commits[NAME]) == 1


def test_large_files_go_in_parts_where_the_hub_asks_for_it(
    hub: UploadStandIn, folder: Path
) -> None:
    hub.part_size = 500_000
    send(hub, folder)
    assert hub.files(NAME) == visible(folder)
    assert sum("/storage/" in request.path for request in hub.received) == 2 * (3 + 1)


OLD = {"config.json": b"{}", "model.safetensors": b"old weights", "notes.txt": b"mine"}


def test_a_repository_with_other_files_is_left_alone_unless_told_to_replace_them(
    hub: UploadStandIn, folder: Path
) -> None:
    hub.make(NAME, private=False, files=OLD)
    reasons: list[str] = []
    line = refused(hub, folder, public=True, replace=lambda reason: bool(reasons.append(reason)))
    assert line == (
        f"{NAME} already holds 3 other files (config.json, model.safetensors, notes.txt); "
        "--force replaces them"
    )
    assert reasons == [line.removesuffix("; --force replaces them")]
    assert hub.files(NAME) == OLD
    assert hub.stored == []

    told = send(hub, folder, public=True, replace=lambda reason: True)
    assert hub.files(NAME) == visible(folder)
    assert hub.commits[NAME] == [{*visible(folder), "-model.safetensors", "-notes.txt"}]
    assert (hub.repositories[f"models/{NAME}"].folder / ".gitattributes").is_file()
    assert isinstance(told[-1], Uploaded)
    assert not told[-1].private


def test_a_repository_that_holds_the_very_files_is_done(hub: UploadStandIn, folder: Path) -> None:
    send(hub, folder)
    before = len(hub.received)
    (done,) = send(hub, folder)
    assert isinstance(done, Uploaded)
    assert done.unchanged
    assert [request.method for request in hub.received[before:]] == ["GET", "POST"]
    # One byte, at the same size, is another file.
    (folder / "config.json").write_text('{"model_type": "llamb"}')
    assert "already holds 5 other files" in refused(hub, folder)


def test_a_public_repository_takes_nothing_that_was_not_called_public(
    hub: UploadStandIn, folder: Path
) -> None:
    hub.make(NAME, private=False)
    line = refused(hub, folder)
    assert (
        "is public, and everybody will see what is uploaded; give --public if that is intended"
        in line
    )
    assert hub.stored == []
    assert hub.commits == {}


def test_public_does_not_open_what_is_private(hub: UploadStandIn, folder: Path) -> None:
    hub.make(NAME, private=True)
    told = send(hub, folder, public=True)
    assert hub.made[NAME].private
    assert [event.text for event in told if isinstance(event, Note)] == [
        f"{NAME} stays private; its page on the hub can change that"
    ]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (("GET", "/api/models/", 401, ""), "the hub does not know this token; make one at https://"),
        (("POST", "/repos/create", 403, "No rights"), "the token has no write permission for"),
        (("POST", "/repos/create", 409, "Exists"), "somebody else has changed the repository"),
        (("POST", "/preupload/", 404, ""), "no such repository or owner"),
        (("POST", "/preupload/", 429, ""), "too many requests"),
        (("POST", "/commit/", 413, f"Full {TOKEN}"), "the account has no storage left (the hub says: Full"),
        (("POST", "/commit/", 400, "Bad"), "the hub refuses what was sent (the hub says: "),
        (("POST", "/commit/", 418, "Tea"), "the hub refuses (status 418) (the hub says: Tea)"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_told_in_one_line(
    hub: UploadStandIn, folder: Path, failure: tuple[str, str, int, str], said: str
) -> None:
    method, fragment, status, message = failure
    hub.fail(method, fragment, status=status, message=message, times=10)
    assert said in refused(hub, folder)


def test_other_mistakes(hub: UploadStandIn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not know this token" in refused(hub, folder, token="hf_Other")
    line = refused(hub, folder, name="other/edited")
    assert "the token has no write permission for other (the hub says: You don't" in line
    assert "not a repository name; write OWNER/NAME" in refused(hub, folder, name="edited")
    assert "not a repository name" in refused(hub, folder, name="me/two words")
    hub.full = True
    assert "Private storage limit reached" in refused(hub, folder)
    stored = len(hub.received)
    (folder / "README.md").write_text("---\nlicense: [1, 2]\n---\n")
    line = refused(hub, folder)
    assert line.startswith(f"{NAME}: checking README.md: ")
    assert "must be a string" in line
    (folder / "README.md").write_text("---\nlicense: [1\n---\n")
    assert "checking README.md: its front matter is not YAML" in refused(hub, folder)
    assert not any("preupload" in request.path for request in hub.received[stored:])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refused(hub, folder)


def test_a_hub_that_is_down(hub: UploadStandIn, folder: Path) -> None:
    hub.stop()
    assert "reading its state: the connection failed" in refused(hub, folder)


def test_somebody_else_commits_meanwhile(hub: UploadStandIn, folder: Path) -> None:
    told: Told = []

    def meddle(event: Event) -> None:
        told.append(event)
        if isinstance(event, FileUploaded):
            key = f"models/{NAME}"
            found = hub.repositories[key]
            hub.repositories[key] = type(found)(found.folder, "f" * 40)

    with pytest.raises(HubError, match="somebody else has changed the repository"):
        upload(
            open_upload(folder),
            NAME,
            TOKEN,
            meddle,
            public=False,
            replace=lambda reason: False,
        )
    assert hub.commits == {}


def test_what_the_hub_warns_of_is_a_note(hub: UploadStandIn, folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [x]\n---\n")
    told = send(hub, folder)
    (note,) = [event.text for event in told if isinstance(event, Note)]
    assert "no license in the metadata" in note


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: UploadStandIn, folder: Path) -> None:
    hub.part_size = 500_000
    told = send(hub, folder)
    assert TOKEN not in repr(told)
    bearers = {
        "/storage/" in request.path: request.headers.get("authorization")
        for request in hub.received
    }
    assert bearers == {False: f"Bearer {TOKEN}", True: None}
    assert not any(TOKEN in request.body.decode("latin-1") for request in hub.received)
    assert not any(TOKEN in content.decode("latin-1") for content in hub.files(NAME).values())


def test_a_folder_is_looked_over_before_anything_is_sent(folder: Path, tmp_path: Path) -> None:
    def told() -> str:
        with pytest.raises(SaveError) as caught:
            open_upload(folder)
        return str(caught.value)

    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert f"{shard}: damaged weights file" in told()
    assert "save it again" in told()
    shard.unlink()
    assert "names model-00002-of-00002.safetensors, which is missing; save the model" in told()
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(whole)
    shard.symlink_to(outside)
    assert f"{shard}: is a link out of the folder" in told()
    shard.unlink()
    shard.write_bytes(whole)
    (folder / "README.md").rename(folder / "card")
    assert "has no README.md" in told()
    (folder / "card").rename(folder / "README.md")
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "model.safetensors.index.json: damaged: holds list where a JSON object" in told()
    (folder / "config.json").unlink()
    assert "neither a model (config.json, *.safetensors or pytorch_model*.bin) nor" in told()
    shutil.rmtree(folder)
    assert told() == f"{folder}: no such folder; give one that excise saved, or a run directory"


def test_a_model_in_pytorch_files_is_one_too(hub: UploadStandIn, folder: Path) -> None:
    for path in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        path.unlink()
    weights = folder / "pytorch_model.bin"
    torch.save({"a": torch.zeros(3), "b": object()}, weights)
    with pytest.raises(SaveError, match="could run code"):
        open_upload(folder)
    torch.save({"a": torch.zeros(3)}, weights)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(SaveError, match=r"or cut short; .* save it again"):
        open_upload(folder)
    weights.write_bytes(whole)
    send(hub, folder)
    assert hub.files(NAME)["pytorch_model.bin"] == whole


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    os.symlink("README.md", folder / "CARD.md")
    assert open_upload(folder).files["CARD.md"].read_bytes() == (folder / "README.md").read_bytes()


@pytest.mark.parametrize(
    "base",
    [
        "C:\\Users\\ada\\models\\tiny",
        "D:tiny",
        "..\\tiny",
        "\\\\server\\ada\\tiny",
        "/home/ada/tiny",
    ],
)
def test_where_a_base_lies_is_told_to_nobody_on_any_system(tmp_path: Path, base: str) -> None:
    save_file({"a.lora_A.weight": torch.zeros(1, 2)}, tmp_path / "adapter_model.safetensors")
    configuration = {"base_model_name_or_path": base}
    (tmp_path / "adapter_config.json").write_text(json.dumps(configuration))
    (tmp_path / "README.md").write_text("# Edited\n")
    sent = json.loads(open_upload(tmp_path).contents["adapter_config.json"])
    assert sent["base_model_name_or_path"] == "tiny"
