"""`excise upload` from the command line: runs and folders, the token, what is asked, what is left on disk."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from cli_helpers import Script, json_lines
from excise.cli.main import main
from excise.cli.upload_command import upload
from excise.config import Inputs
from excise.errors import SettingsError
from hub_stand_in import run_python
from hub_uploads import NAME, TOKEN, UploadStandIn

pytest_plugins = ["cli_support", "upload_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token in the environment, and none on the disk of whoever runs this."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write in."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def chosen(run: Path) -> int:
    number: int = json.loads((run / "result.json").read_text())["chosen"]["trial"]
    return number


def test_the_end_of_input_is_no_token(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ended = Script()
    with pytest.raises(SettingsError, match="no token"):
        upload(
            str(run), Inputs(), to=NAME, form=None, public=False, force=False, ask_secretly=ended
        )
    assert len(ended.questions) == 1


def beside(run: Path, form: str, number: int) -> Path:
    """Where the edit of a run is written before it is uploaded: not in the run, which may be searching."""
    return run.with_name(f"{run.name}-{form}-{number}")


@pytest.mark.usefixtures("token")
def test_a_run_is_written_and_uploaded_and_a_failed_upload_goes_on_with_the_same_files(
    hub: UploadStandIn, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("POST", "/commit/", status=500, message=f"Sorry, {TOKEN}")
    arguments = ["upload", str(run), "--to", NAME]
    assert main(arguments) == 2
    first = capsys.readouterr()
    (line,) = first.err.splitlines()
    assert line.startswith(f"excise: {NAME}: committing (nothing is visible yet): the hub fails")
    written = beside(run, "model", chosen(run))
    before = (written / "reproduce.json").read_bytes()
    assert hub.files(NAME) == {}

    assert main(arguments) == 0
    second = capsys.readouterr()
    assert f"using the model of trial {chosen(run)} in {written}" in second.out
    assert f"uploaded    {hub.endpoint}/{NAME} (private), commit " in second.out
    assert (written / "reproduce.json").read_bytes() == before
    assert hub.files(NAME)["model.safetensors"] == (written / "model.safetensors").read_bytes()
    assert hub.made[NAME].private

    for text in (first.out, first.err, second.out, second.err):
        assert TOKEN not in text
    for path in run.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


@pytest.mark.usefixtures("token")
def test_an_adapter_of_a_trial_public_as_json(
    hub: UploadStandIn, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = json.loads((run / "result.json").read_text())["front"][0]
    arguments = ["upload", f"{run}:{number}", "--as", "adapter", "--to", NAME, "--public", "--json"]
    assert main(arguments) == 0
    last = json_lines(capsys.readouterr().out)[-1]
    assert last["event"] == "Uploaded"
    assert last["private"] is False
    assert not hub.made[NAME].private
    assert "adapter_model.safetensors" in hub.files(NAME)
    assert beside(run, "adapter", number).is_dir()
    assert not list(run.glob("*adapter*"))


@pytest.mark.usefixtures("token")
def test_nobody_is_told_where_things_lie_and_the_model_can_be_made_again_all_the_same(
    hub: UploadStandIn,
    run: Path,
    model_folder: Path,
    prompt_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["upload", str(run), "--as", "adapter", "--to", NAME]) == 0
    sent = hub.files(NAME)
    prompts = Path(prompt_flags[0].split("=")[1]).parent
    for content in sent.values():
        for folder in (model_folder.parent, prompts, tmp_path):
            assert str(folder).encode() not in content
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert json.loads(sent["reproduce.json"])["model"]["name"] == "tiny"
    # What lies here still says where.
    assert str(model_folder) in (beside(run, "adapter", chosen(run)) / "reproduce.json").read_text()
    (tmp_path / "got.json").write_bytes(sent["reproduce.json"])
    again = ["reproduce", "got.json", "again", "--from", str(model_folder), *prompt_flags]
    assert main(again) == 0
    assert "Same: all " in capsys.readouterr().out


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("by_run", [True, False])
def test_hardware_is_left_out_of_what_was_saved_with_it(
    by_run: bool, hub: UploadStandIn, run: Path
) -> None:
    assert main(["upload", str(run), "--as", "adapter", "--to", "me/open"]) == 0
    with_it = json.loads(hub.files("me/open")["reproduce.json"])
    assert with_it["circumstances"]["hardware"]
    folder = beside(run, "adapter", chosen(run))
    words = [str(run), "--as", "adapter"] if by_run else [str(folder)]
    assert main(["upload", *words, "--to", NAME, "--no-hardware"]) == 0
    sent = hub.files(NAME)["reproduce.json"]
    del with_it["circumstances"]["hardware"]
    assert json.loads(sent) == with_it
    # What lies here is left as it is.
    assert "hardware" in json.loads((folder / "reproduce.json").read_text())["circumstances"]


@pytest.mark.usefixtures("token")
def test_a_run_whose_writing_was_killed_is_written_again_and_uploaded(
    hub: UploadStandIn, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("excise.reproduce.fingerprint.sketch", interrupt)
        assert main(["upload", str(run), "--to", NAME]) == 130
    assert main(["upload", str(run), "--to", NAME]) == 0
    assert "reproduce.json" in hub.files(NAME)


@pytest.mark.usefixtures("token")
def test_replacing_is_asked_for_or_forced(
    hub: UploadStandIn,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.make(NAME, private=True, files={"mine.txt": b"x"})
    arguments = ["upload", str(run), "--as", "adapter", "--to", NAME]
    assert main(arguments) == 2
    assert "already holds 1 other files (mine.txt)" in capsys.readouterr().err

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    for script, status in ((Script(""), "no"), (Script(), "no"), (Script("y"), "yes")):
        how = {"to": NAME, "form": "adapter", "public": False, "force": False, "ask": script}
        if status == "yes":
            assert upload(str(run), Inputs(), **how) == 0  # type: ignore[arg-type]
        else:
            with pytest.raises(Exception, match="--force replaces them"):
                upload(str(run), Inputs(), **how)  # type: ignore[arg-type]
        assert script.questions[0].endswith("Replace them? [y]es / [n]o [n]: ")
    assert "mine.txt" not in hub.files(NAME)
    # Now the very same files are there: nothing to force.
    assert main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    hub.make("me/other", private=True, files={"mine.txt": b"x"})
    assert main([*arguments[:-1], "me/other", "--force"]) == 0
    assert "mine.txt" not in hub.files("me/other")


def test_a_token_that_is_typed_is_used_and_forgotten(
    hub: UploadStandIn,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert main(["upload", str(run), "--to", NAME]) == 2
    assert "no token; set HF_TOKEN in the environment, or log in" in capsys.readouterr().err
    assert not list(run.parent.glob("*model-*"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    secret = Script(f" {TOKEN}\n")
    status = upload(
        str(run),
        Inputs(),
        to=NAME,
        form="adapter",
        public=False,
        force=False,
        ask=Script(),
        ask_secretly=secret,
    )
    assert status == 0
    assert len(secret.questions) == 1
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["RUN"], "upload: needs --to OWNER/NAME"),
        (["RUN", "--to", NAME, "--as", "gguf"], "--as=gguf: must be one of model, adapter"),
        (["RUN:99", "--to", NAME], ":99: not on the front"),
        (["nowhere", "--to", NAME], "nowhere: no such run or folder"),
        (["nowhere:3", "--to", NAME], "nowhere:3: no such run or folder"),
        (["EMPTY", "--to", NAME], "EMPTY: neither a model (config.json, "),
        (["EMPTY", "--to", NAME, "--as", "adapter"], "--as: goes with a run, but EMPTY"),
        (["EMPTY", "--to", NAME, "--select", "knee"], "--select: goes with a run, but EMPTY"),
        (["RUN", "--to", NAME, "--against", "x"], "--against: only excise evaluate takes it"),
        (["RUN", "--to", NAME, "--token", TOKEN], "--token: no such flag"),
    ],
)
def test_mistakes(
    hub: UploadStandIn,
    run: Path,
    tmp_path: Path,
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "EMPTY").mkdir()
    words = [one.replace("RUN", str(run)) for one in arguments]
    assert main(["upload", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert hub.received == []


@pytest.mark.usefixtures("token")
def test_a_folder_of_another_trial_is_not_taken_for_the_one_that_is_meant(
    hub: UploadStandIn, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / f"model-{chosen(run)}"
    folder.mkdir()
    (folder / "config.json").touch()
    assert main(["upload", str(run), "--to", NAME]) == 2
    assert f"{folder}: is not the model of trial {chosen(run)}" in capsys.readouterr().err
    assert hub.received == []


@pytest.mark.usefixtures("token")
def test_an_interrupted_upload_says_that_nothing_is_to_be_seen(
    hub: UploadStandIn,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", interrupt)
    assert main(["upload", str(run), "--as", "adapter", "--to", NAME]) == 130
    assert (
        "nothing is visible at me/edited yet; the same command resumes" in capsys.readouterr().err
    )
    assert hub.files(NAME) == {}


def test_a_process_of_its_own_keeps_the_token_to_itself(hub: UploadStandIn, tmp_path: Path) -> None:
    """With nothing but the environment to go by: the hub's address, the token, no xet."""
    folder, home = tmp_path / "model", tmp_path / "home"
    folder.mkdir()
    save_file({"weight": torch.randn(600, 500)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    environment = hub.environment(home) | {"HF_TOKEN": TOKEN}
    hub.fail("POST", "/commit/", status=503, message=TOKEN)
    code = f"from excise.cli.main import main; main({['upload', str(folder), '--to', NAME]!r})"
    for visible in (False, True):
        done = run_python(code, environment)
        assert bool(hub.files(NAME)) is visible
        assert TOKEN not in done.stdout + done.stderr
    assert len(hub.stored) == 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()
