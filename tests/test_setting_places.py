"""A wrong setting that is only noticed during the work is named by the place that its value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_helpers import failure
from conftest import write_prompts
from excise.cli.main import main
from excise.errors import ExciseError, ModelError, SettingsError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.search.select import check_selection

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("EXCISE_SELECT", "kneee", "not understood"),
        ("EXCISE_DEVICE", "cuda:9", "this machine has no such device"),
        ("EXCISE_MAX_MEMORY", "9=1GiB", "9: this machine has no such device"),
        ("EXCISE_WRITERS", "no.such=mlp.down_proj", "no.such=mlp.down_proj: no decoder layer"),
        ("EXCISE_CHAT_TEMPLATE", "absent.jinja", "cannot be read"),
        ("EXCISE_OFFLOAD_FOLDER", "taken", "is not a folder"),
    ],
)
def test_the_place_of_a_value_is_named(
    small: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    reason: str,
) -> None:
    Path("taken").touch()
    field = variable.removeprefix("EXCISE_").lower()
    flag = f"--{field.replace('_', '-')}={value}"
    assert failure([*small, flag], capsys).startswith(f"excise: {flag}: {reason}")
    with monkeypatch.context() as environment:
        environment.setenv(variable, value)
        assert failure(small, capsys).startswith(f"excise: {variable}={value}: {reason}")
    Path("excise.toml").write_text(f'{field} = "{value}"', encoding="utf-8")
    expected = f'excise: excise.toml: {field} = "{value}": {reason}'
    assert failure(small, capsys).startswith(expected)


@pytest.mark.parametrize("command", ["inspect", "chat", "diff"])
def test_each_command_names_the_place(
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    variable, value = "EXCISE_DEVICE", "cuda:9"
    words = [str(model_folder)]
    if command == "diff":
        variable, value = "EXCISE_WRITERS", "no.such=mlp.down_proj"
        words *= 2
    monkeypatch.setenv(variable, value)
    assert failure([command, *words], capsys).startswith(f"excise: {variable}={value}: ")


def test_a_stored_value_is_named_by_its_file(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    """The trial of RUN:TRIAL is named by that word, a setting of the run by `run.json`."""
    word = f"{finished_run}:99"
    for command in (["show", word], ["export", word, "--save", "out"], ["chat", word]):
        assert failure(command, capsys).startswith(f"excise: {word}: not on the front")


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        (LoadOptions(device="cuda:9"), ModelError, "device=cuda:9: this machine has no"),
        (LoadOptions(chat_template="absent"), ModelError, "chat_template=absent: cannot be read"),
    ],
)
def test_in_python_the_parameter_is_named(
    model_folder: Path, options: LoadOptions, kind: type[ExciseError], told: str
) -> None:
    with pytest.raises(kind, match=f"^{told}"):
        load(str(model_folder), options)


def test_a_selection_in_python() -> None:
    with pytest.raises(SettingsError, match=r"^select=kneee: not understood"):
        check_selection("kneee")


def test_runs_are_not_compared_on_prompts_that_have_changed(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 8)
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in prompts.items()]
    others = [flag for flag in small if not flag.startswith(("--target", "--control"))]
    run = str(tmp_path / "run")
    assert main([*others, *flags, "--run-dir", run, "--yes"]) == 0
    path = Path(prompts["target_train"])
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")
    told = failure(["compare", run, run], capsys)
    assert told.startswith(f"excise: {run}: the prompts have changed since this run")
