"""Run directories of format 4 have no checksum: whatever is wrong in their records is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli_helpers import rewrite
from excise.app.run import identity_of, known_of
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.cli.render import Renderer
from excise.cli.resume import where_to_run
from excise.cli.stored import figures, open_run_named
from excise.config import Inputs, Settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import RunError
from excise.prompts.read import load_parts
from excise.saving.reproduction import reproduction_of
from excise.store.directory import RunDirectory
from excise.store.opening import open_run

pytest_plugins = ["cli_support"]

WRONG: tuple[object, ...] = (None, "text", [1], {"a": 1}, -1)


@pytest.fixture
def old(finished_run: Path, tmp_path: Path) -> Path:
    """A run directory whose records are of format 4."""
    folder = Path(shutil.copytree(finished_run, tmp_path / "old"))
    for name in ("run.json", "result.json"):
        text = (folder / name).read_text(encoding="utf-8")
        content = json.loads(text.replace('"discriminant"', '"discriminant_weighted"'))
        del content["sha256"]
        (folder / name).write_text(json.dumps(content | {"format": 4}), encoding="utf-8")
    return folder


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value, at any depth. Settings are looked at by those who look at settings."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict) and path != ("settings",):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def damages(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each value left out, or another one in its place: what was done, and what came of it."""
    for path, another in zip(places(content), cycle(WRONG), strict=False):
        for wrong in ("left out", another):
            damaged = json.loads(json.dumps(content))
            at = damaged
            for key in path[:-1]:
                at = at[key]
            if wrong == "left out":
                del at[path[-1]]
            else:
                at[path[-1]] = wrong
            yield f"{'.'.join(map(str, path))}: {wrong}", damaged


def readers(folder: Path) -> list[Callable[[], object]]:
    """All that looks into a run's records: to go on with it, and to use what it found."""
    stored = RunDirectory(folder).identity().settings
    settings = Settings.model_validate({**stored, "run_dir": folder})
    screen = Renderer(Console(file=StringIO()))
    source, prompts = resolve(settings.model, None), load_parts(prompt_sources(settings))
    run = open_run_named(str(folder), Inputs())
    directory = run.directory

    def use() -> None:
        number = run.choice()
        edit = directory.edit(number)
        figures(directory.record(), number, edit)
        reproduction_of(directory, source, number, "")

    return [
        use,
        lambda: run.source(lambda event: None),
        lambda: where_to_run(settings, screen, None),
        lambda: open_run(folder, identity_of(settings, source, prompts)).close(),
        lambda: known_of(directory),
    ]


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_whatever_is_wrong_in_a_record_is_one_line(name: str, old: Path) -> None:
    good = json.loads((old / name).read_text(encoding="utf-8"))
    calls = readers(old)
    for call in calls:
        call()
    refused = 0
    for what, content in damages(good):
        (old / name).write_text(json.dumps(content), encoding="utf-8")
        for call in calls:
            try:
                call()
            except RunError as error:
                if str(old) not in str(error):
                    pytest.fail(f"{what}: {error}")
                refused += 1
    assert refused > 10


def test_a_run_of_an_excise_that_recorded_less_is_gone_on_with(
    old: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((old / "result.json").read_text(encoding="utf-8"))
    del record["circumstances"], record["device"]
    rewrite(old / "result.json", record)
    command = [*small, "--run-dir", str(old), "--yes"]
    assert main(command) == 0, capsys.readouterr().err
    assert json.loads((old / "result.json").read_text(encoding="utf-8"))["circumstances"]["rows"]
