"""Paths as every system writes them, told from hub ids, splits and trials by their text alone."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest

from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.cli.stored import split_trial
from excise.config import gather, study_settings
from excise.errors import HubError, ModelError, PromptError, SettingsError
from excise.prompts.read import PromptDefaults, read
from excise.prompts.source import PromptSource, parse_source
from excise.store.directory import default_path
from excise.system.paths import RESERVED, directory_name, names_a_path

WINDOWS = [
    r"C:\models\x",
    r"C:\Program Files\models\läufe",
    "C:/models/x",
    "D:x",
    r"D:x\y",
    r"..\models\x",
    r".\x",
    r"\\server\share\x",
    r"models\x",
    "~\\models",
    r"\\?\C:\very\long",
]
POSIX = ["/models/x", "./x", "../x", "~/models", "a/b/c", "/"]
HUB_IDS = ["gpt2", "Qwen/Qwen3-4B", "openai/gpt-oss-20b", "a.b/c_d-e"]


@pytest.mark.parametrize("text", [*WINDOWS, *POSIX])
def test_a_path_is_never_looked_for_on_the_hub(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*arguments: object, **options: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert names_a_path(text)
    with pytest.raises(ModelError, match=r"no such folder|no config\.json"):
        resolve(text)


@pytest.mark.parametrize("text", HUB_IDS)
def test_a_hub_id_is_no_path(text: str) -> None:
    assert not names_a_path(text)


def named(model: str) -> str:
    settings = gather({"model": model, "target": "t.txt", "control": "c.txt"}, {}, None)
    return default_path(study_settings(settings)).name


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("model", "begins"),
    [
        (r"C:\models\Qwen 3", "Qwen-3-"),
        ("D:x", "x-"),
        (r"..\models\läufe\x.gguf", "x.gguf-"),
        ("C:\\", "model-"),
        ("/models/x/", "x-"),
        ("..", "model-"),
        ("Qwen/Qwen3-4B", "Qwen-Qwen3-4B-"),
        ("/models/模型", "model-"),
        ("/models/CON", "model-CON-"),
        ("/models/aux.v2", "model-aux.v2-"),
    ],
)
def test_a_run_directory_is_named_after_the_last_part(model: str, begins: str) -> None:
    name = named(model)
    assert name[: -len("01234567")] == begins


@pytest.mark.parametrize(
    "model",
    ["x" * 300, "/models/" + "y" * 255, "/models/con.x", "/models/a ", "/models/a...", "nul"],
)
def test_the_name_of_a_run_directory_is_one_on_every_system(model: str) -> None:
    name = named(model)
    assert len(name) <= 80
    assert not PureWindowsPath(name).is_reserved()
    assert name == name.strip(" .")
    assert not set(name) & set('<>:"/\\|?*')


def test_two_long_names_have_two_directories() -> None:
    assert named("/models/" + "y" * 250 + "1") != named("/models/" + "y" * 250 + "2")


def test_reserved_names_are_those_of_windows() -> None:
    assert all(PureWindowsPath(name).is_reserved() for name in RESERVED)
    assert directory_name("nul") == "model-nul"
    assert directory_name("null") == "null"


@pytest.mark.parametrize(
    ("word", "path", "trial"),
    [
        (r"C:\runs\x:3", r"C:\runs\x", "3"),
        (r"C:\runs\x", r"C:\runs\x", None),
        (r"C:\runs\7", r"C:\runs\7", None),
        ("C:/runs/my run:knee", "C:/runs/my run", "knee"),
        ("D:x:fewest", "D:x", "fewest"),
        ("D:7", "D:7", None),
        ("runs/läufe:12", "runs/läufe", "12"),
    ],
)
def test_a_trial_is_told_from_a_drive(word: str, path: str, trial: str | None) -> None:
    assert split_trial(word) == (Path(path), trial)


@pytest.mark.parametrize(
    ("text", "source", "split"),
    [
        (r"C:\prompts\file.csv[:400]", r"C:\prompts\file.csv", "[:400]"),
        (r"C:\my prompts\läufe.TXT", r"C:\my prompts\läufe.TXT", None),
        (r"C:\prompts\saved:train[:400]", r"C:\prompts\saved", "train[:400]"),
        (r"C:\prompts\saved:train", r"C:\prompts\saved", "train"),
        ("D:file.csv[:400]", "D:file.csv", "[:400]"),
        ("D:file.TXT", "D:file.TXT", None),
        ("folder:File.TXT", "folder:File.TXT", None),
        ("D:prompts", "D:prompts", None),
        ("C:/prompts/a.jsonl:[10:20]", "C:/prompts/a.jsonl", "[10:20]"),
        ("owner/name:train[:400]", "owner/name", "train[:400]"),
    ],
)
def test_a_split_is_told_from_a_drive(text: str, source: str, split: str | None) -> None:
    assert parse_source(text).get("split") == split
    assert parse_source(text)["source"] == source


@pytest.mark.parametrize("text", [r"C:\prompts", "D:prompts", r"..\prompts\x", r"\\server\x"])
def test_a_missing_folder_of_prompts_is_not_looked_for_on_the_hub(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*arguments: object) -> None:
        raise HubError("the hub was asked")

    monkeypatch.setattr("excise.prompts.hub.read_hub", asked)
    with pytest.raises(PromptError, match="no such file"):
        read(PromptSource.model_validate(text), PromptDefaults())


@pytest.mark.parametrize(
    "line", [r'model = "C:\Users\x"', r'model = "D:\models"', r'save = "C:\out\x"']
)
def test_a_backslash_in_a_toml_string_is_explained(line: str, tmp_path: Path) -> None:
    path = tmp_path / "excise.toml"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="single quotes"):
        gather({}, {}, path)


def test_a_home_folder_that_nobody_has_is_a_name_like_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (
        ["inspect", "~nobody-here/x"],
        ["show", "~nobody-here"],
        ["runs", "~nobody-here"],
    ):
        main(arguments)
    assert "Traceback" not in capsys.readouterr().err


def test_the_home_folder_is_known_in_every_setting_that_is_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fields = ("offload_folder", "run_dir", "save", "adapter")
    # bash leaves the sign alone behind --save=, Windows leaves it alone everywhere.
    settings = gather({"model": "x", **dict.fromkeys(fields, "~/y")}, {}, None)
    assert {getattr(settings, field) for field in fields} == {tmp_path / "y"}
