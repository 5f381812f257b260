"""Every command takes its settings from the same places, in the same order, with the same messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_helpers import result
from excise.cli.main import main
from excise.cli.stored import open_run_named
from excise.config import Inputs, Settings, Stored, gather
from excise.errors import SettingsError

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

OPENING = (
    ["chat", "RUN"],
    ["export", "RUN", "--adapter", "OUT"],
    ["compare", "RUN", "RUN"],
    ["upload", "RUN", "--to", "me/model"],
)
OTHERS = (
    ["show", "RUN"],
    ["runs"],
    ["diff", "MODEL", "MODEL"],
    ["apply", "RUN", "MODEL", "OUT"],
    ["evaluate", "MODEL", "--against", "MODEL"],
    ["inspect", "MODEL"],
    ["upload", "MODEL", "--to", "me/model"],
    ["export", "EDIT", "--adapter", "OUT"],
    ["reproduce", "SAVED", "OUT"],
)


@pytest.fixture(scope="module")
def saved(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with its `reproduce.json`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    assert main(["export", str(finished_run), "--adapter", str(folder)]) == 0
    return folder


def command(words: list[str], run: Path, model: Path, saved: Path, out: Path) -> list[str]:
    edit = run / f"edit-{result(run)['chosen']['trial']}.safetensors"  # type: ignore[index]
    meant = {"RUN": run, "MODEL": model, "SAVED": saved, "OUT": out / "out", "EDIT": edit}
    return [str(meant.get(word, word)) for word in words]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dtype=auto,float3", "--dtype=auto,float3: must be one of auto, float16"),
        ("--max-memory=0:20GiB", "--max-memory=0:20GiB: '0:20GiB' is not DEVICE=SIZE"),
        ("--dtype=half", "--dtype=half: must be one of auto, float16, bfloat16, float32"),
    ],
)
@pytest.mark.parametrize("words", OPENING, ids=lambda words: words[0])
def test_a_wrong_flag_is_told_alike_wherever_a_run_is_opened(
    finished_run: Path,
    model_folder: Path,
    saved: Path,
    tmp_path: Path,
    words: list[str],
    flag: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(words, finished_run, model_folder, saved, tmp_path)
    capsys.readouterr()
    assert main([*arguments, flag]) == 2
    assert capsys.readouterr().err.startswith(f"excise: {message}")


@pytest.mark.parametrize(
    "words", [*OPENING, *OTHERS], ids=lambda words: f"{words[0]} {' '.join(words[1:2])}"
)
def test_the_environment_and_the_file_are_read_by_every_command(
    finished_run: Path,
    model_folder: Path,
    saved: Path,
    tmp_path: Path,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = command(words, finished_run, model_folder, saved, tmp_path)
    (tmp_path / "excise.toml").write_text('max_memory = ["0:20GiB"]')
    capsys.readouterr()
    assert main(arguments) == 2
    assert 'excise.toml: max_memory = ["0:20GiB"]: ' in capsys.readouterr().err
    monkeypatch.setenv("EXCISE_MAX_MEMORY", "gpu=1")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("excise: EXCISE_MAX_MEMORY=gpu=1: ")
    monkeypatch.setenv("EXCISE_MAX_MEMRY", "cpu=1GiB")
    assert main(arguments) == 2
    assert "EXCISE_MAX_MEMRY: no such setting; did you mean" in capsys.readouterr().err


def test_what_a_run_was_made_with_goes_before_both(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "excise.toml").write_text('dtype = "bfloat16"\nrevision = "x"\ntarget = "t.txt"')
    environment = {"EXCISE_MAX_NEW_TOKENS": "7", "EXCISE_BATCH_SIZE": "3", "EXCISE_MODEL": "other"}
    fields = tuple(Settings.model_fields)
    run = open_run_named(str(finished_run), Inputs({}, environment), fields).settings
    made = json.loads((finished_run / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (run.model, run.revision, run.dtypes) == (made["model"], None, ("float32",))
    assert (run.max_new_tokens, run.batch_size, run.target) == (4, 3, None)
    typed = open_run_named(
        str(finished_run), Inputs({"dtypes": "auto,float16"}, environment), fields
    )
    assert typed.settings.dtypes == ("auto", "float16")
    assert open_run_named(str(finished_run), Inputs({"dtype": "float16"})).settings.dtypes == (
        "float16",
    )


def test_a_wrong_value_in_a_stored_file_names_the_file() -> None:
    with pytest.raises(SettingsError, match=r"^run.json: dtypes = \[\"half\"\]: must be one of"):
        gather({"model": "m"}, {}, None, Stored("run.json", {"dtypes": ["half"]}))
    with pytest.raises(SettingsError, match=r"^run.json: seed = true: must not be true"):
        gather({"model": "m"}, {}, None, Stored("run.json", {"seed": True}))


def test_compare_measures_with_what_was_typed(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(finished_run), str(finished_run), "--json"]
    assert main([*arguments, "--max-memory", "cpu=20GiB", "--dtype", "float32,auto"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["figure"] == "target prompts refused, judged by keywords"
    assert "float32" in captured.err


@pytest.mark.parametrize(
    "words", [["show", "RUN"], ["runs", "ROOT"], ["reproduce", "SAVED", "OUT"]]
)
def test_json_can_be_asked_for_in_the_environment(
    finished_run: Path,
    model_folder: Path,
    saved: Path,
    tmp_path: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EXCISE_JSON", "true")
    arguments = command(words, finished_run, model_folder, saved, tmp_path)
    arguments = [str(finished_run.parent) if one == "ROOT" else one for one in arguments]
    capsys.readouterr()
    assert main(arguments) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_a_record_decides_what_is_made_and_this_machine_how(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "excise.toml").write_text('no_hardware = true\nseed = 9\nprefix = "x"\ntrials = 1')
    monkeypatch.setenv("EXCISE_SYSTEM_PROMPT", "You are another.")
    assert main(["reproduce", str(saved), str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "reproduce.json").read_text(encoding="utf-8"))
    assert "hardware" not in record["circumstances"]
    assert (record["settings"]["system_prompt"], record["seed"]) == (None, 0)
