"""Code that comes with a model runs only where the command line says so, whoever else asks for it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from cli_helpers import failure, result, rewrite
from configuration import gathered
from excise.cli.main import main
from excise.config import Stored, gather
from excise.errors import SettingsError

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

TYPE_IT = "read that code, and type --trust-remote-code on this command line to run it"
EVIL = "import pathlib\npathlib.Path({!r}).touch()\n"


@pytest.fixture
def asking(finished_run: Path, tmp_path: Path) -> Path:
    """A run directory that asks to run code, as one of a model with code of its own does."""
    run = tmp_path / "asking"
    shutil.copytree(finished_run, run)
    identity = json.loads((run / "run.json").read_text(encoding="utf-8"))
    identity["settings"]["trust_remote_code"] = True
    rewrite(run / "run.json", identity)
    return run


@pytest.fixture
def with_code(model_folder: Path, tmp_path: Path) -> Path:
    """A model that comes with remote code for every class; any of it leaves the file `ran` when it runs."""
    folder = tmp_path / "with-code"
    shutil.copytree(model_folder, folder)
    (folder / "theirs.py").write_text(EVIL.format(str(tmp_path / "ran")), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer |= {
        "tokenizer_class": "TheirTokenizer",
        "auto_map": {"AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    generate = folder / "custom_generate"
    generate.mkdir()
    (generate / "generate.py").write_text(EVIL.format(str(tmp_path / "ran")), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("environment", "toml", "place"),
    [
        ({"EXCISE_TRUST_REMOTE_CODE": "1"}, "", "EXCISE_TRUST_REMOTE_CODE"),
        ({"EXCISE_TRUST_REMOTE_CODE": "yes"}, "", "EXCISE_TRUST_REMOTE_CODE"),
        ({}, "trust_remote_code = true", "excise.toml: trust_remote_code"),
        ({}, "trust-remote-code = 'on'", "excise.toml: trust-remote-code"),
    ],
)
def test_neither_the_environment_nor_a_file_can_ask(
    environment: dict[str, str], toml: str, place: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        gathered({}, environment, toml)
    assert str(raised.value) == (
        f"{place}: asks to run code that comes with m; only a flag can allow it; {TYPE_IT}"
    )
    assert gathered({"trust_remote_code": True}, environment, toml).trust_remote_code


@pytest.mark.parametrize("value", ["false", "0", "no", "off"])
def test_what_does_not_ask_is_no_mistake(value: str) -> None:
    settings = gathered({}, {"EXCISE_TRUST_REMOTE_CODE": value}, "trust_remote_code = false")
    assert not settings.trust_remote_code


def test_a_value_that_is_neither_is_told_as_everywhere() -> None:
    with pytest.raises(SettingsError, match="TRUST_REMOTE_CODE=perhaps: must be true or false"):
        gathered({}, {"EXCISE_TRUST_REMOTE_CODE": "perhaps"})


def test_the_refusal_says_whose_code_a_stored_file_names() -> None:
    values = {"model": "theirs/model", "revision": "refs/pr/1", "trust_remote_code": True}
    with pytest.raises(SettingsError) as raised:
        gather({}, {}, None, Stored("run.json", values))
    assert str(raised.value).startswith(
        "run.json: trust_remote_code: asks to run code that comes with theirs/model (revision refs/pr/1); "
    )
    # The flag of another model is about that one.
    typed = {"model": "mine", "revision": None, "trust_remote_code": True}
    assert gather(typed, {}, None, Stored("run.json", values)).model == "mine"


@pytest.mark.parametrize("line", ['revision = "refs/pr/1"', 'model = "theirs/model"'])
def test_a_file_does_not_choose_whose_code_a_typed_flag_runs(line: str) -> None:
    Path("excise.toml").write_text(line, encoding="utf-8")
    named = {} if line.startswith("model") else {"model": "m"}
    with pytest.raises(SettingsError) as raised:
        gather({**named, "trust_remote_code": True}, {}, None)
    assert str(raised.value) == (
        f"excise.toml: {line}: decides whose code --trust-remote-code runs; type it as a flag too"
    )
    typed = {"model": "m", "revision": "main", "trust_remote_code": True}
    assert gather(typed, {}, None).revision == "main"
    assert gather(named or {"model": "m"}, {}, None).model


@pytest.mark.parametrize(
    "command",
    [
        ["chat", "RUN"],
        ["export", "RUN", "--adapter", "OUT"],
        ["export", "RUN:knee", "--save", "OUT"],
        ["compare", "RUN", "RUN"],
        ["upload", "RUN", "--to", "me/model"],
        ["apply", "RUN", "MODEL", "OUT"],
        ["apply", "EDIT", "MODEL", "OUT"],
        ["reproduce", "RECORD", "OUT"],
    ],
)
def test_whatever_opens_a_run_that_asks_is_refused(
    asking: Path,
    model_folder: Path,
    tmp_path: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "RECORD" in command:
        export = ["export", str(asking), "--adapter", str(tmp_path / "made")]
        assert main([*export, "--trust-remote-code"]) == 0
    number = result(asking)["front"][0]  # type: ignore[index]
    words = {
        "RUN": str(asking),
        "RUN:knee": f"{asking}:knee",
        "EDIT": str(asking / f"edit-{number}.safetensors"),
        "MODEL": str(model_folder),
        "OUT": str(tmp_path / "out"),
        "RECORD": str(tmp_path / "made"),
    }
    line = failure([words.get(word, word) for word in command], capsys)
    place = "reproduce.json" if "RECORD" in command else f"{asking}/run.json"
    assert line.startswith(f"excise: {place}: trust_remote_code: asks to run code that comes with ")
    assert line.endswith(TYPE_IT)
    assert not (tmp_path / "out").exists()


def test_a_run_that_asks_is_opened_where_the_flag_is_typed(asking: Path, tmp_path: Path) -> None:
    export = ["export", str(asking), "--adapter", str(tmp_path / "adapter"), "--trust-remote-code"]
    assert main(export) == 0
    assert main(["show", str(asking)]) == 0  # No model is opened for it.


def test_a_resumed_run_needs_the_flag_again(
    asking: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = [*small, "--run-dir", str(asking), "--yes"]
    line = failure(resumed, capsys)
    assert line.startswith(
        f"excise: {asking}/run.json: the run was started with trust_remote_code (--trust-remote-code)"
    )
    assert "give it again to run the code that comes with" in line
    identity = (asking / "run.json").read_bytes()
    assert main([*resumed, "--trust-remote-code"]) == 0
    assert (asking / "run.json").read_bytes() == identity


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "CODE"],
        ["inspect", "CODE", "--config-only"],
        ["chat", "CODE"],
        ["evaluate", "CODE", "--against", "PLAIN"],
        ["apply", "EDIT", "CODE", "OUT", "--force"],
        ["export", "EDIT", "CODE", "--adapter", "OUT", "--force"],
        ["CODE", "--yes", "--save", "OUT"],
    ],
)
def test_no_command_runs_code_of_a_model_unasked(
    with_code: Path,
    finished_run: Path,
    model_folder: Path,
    prompt_flags: list[str],
    tmp_path: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = result(finished_run)["front"][0]  # type: ignore[index]
    words = {
        "CODE": str(with_code),
        "PLAIN": str(model_folder),
        "EDIT": str(finished_run / f"edit-{number}.safetensors"),
        "OUT": str(tmp_path / "out"),
    }
    prompts = prompt_flags if command[0] in ("CODE", "evaluate") else []
    line = failure([*(words.get(word, word) for word in command), *prompts], capsys)
    assert "comes with remote code" in line
    assert "theirs." in line
    assert line.endswith("give trust_remote_code (--trust-remote-code) to run it")
    assert not (tmp_path / "ran").exists()


def test_code_runs_where_the_flag_is_typed(
    with_code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It holds none of the classes that it promises; what counts is that it was run, which the tests above
    # would not notice if it could not be.
    assert main(["inspect", str(with_code), "--config-only", "--trust-remote-code"]) == 2
    assert (tmp_path / "ran").exists()
    with suppress(AttributeError):
        main(["inspect", str(with_code), "--trust-remote-code"])
    told = (
        f"trust_remote_code (--trust-remote-code): {with_code} runs remote code, "
        "custom_generate/generate.py, theirs."
    )
    assert told in capsys.readouterr().out
