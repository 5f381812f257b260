"""`excise compare`: two edits, on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from rich.text import Text

from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.stored import StoredRun, open_run_named
from excise.cli.tables import differences_table
from excise.config import Settings
from excise.errors import RunError, SettingsError
from excise.run.compare import compare as measure_both


def compare(
    words: tuple[str, str], flags: Mapping[str, object], environment: Mapping[str, str]
) -> int:
    """Compare RUN[:TRIAL] with another; returns the exit status."""
    as_json = bool(flags.get("json_lines"))
    loading = {name: value for name, value in flags.items() if name != "json_lines"}
    first, second = (open_run_named(word, loading, environment) for word in words)
    source = first.source()
    if second.directory.identity()["model_digest"] != source.digest:
        raise RunError(
            f"{second.directory.path} is of another model than {first.directory.path}; edits of one model "
            "can be compared"
        )
    if (
        first.directory.identity()["prompts_digest"]
        != second.directory.identity()["prompts_digest"]
    ):
        raise RunError(
            f"{second.directory.path} had other prompts than {first.directory.path}: what one held out the "
            "other may have learned from; compare runs on the same prompts"
        )
    edits = [run.directory.edit(run.choice()) for run in (first, second)]
    names = [f"{run.directory.path}:{run.choice()}" for run in (first, second)]
    with Renderer(make_console(to_errors=as_json)) as screen:
        found = measure_both(_settings(first, loading), source, edits[0], edits[1], screen)
        if as_json:
            write_json([{**asdict(one), "differs": one.differs} for one in found])
        else:
            screen.show(differences_table(names[0], names[1], found))
            screen.show(Text(_verdict([one.what for one in found if one.differs])))
    return 0


def _settings(run: StoredRun, flags: Mapping[str, object]) -> Settings:
    """The run's own settings, prompts and all, with what was typed in their place."""
    stored = run.directory.identity()["settings"]
    assert isinstance(stored, dict)
    if flags.keys() & {"dtype", "dtypes"}:
        stored = {name: value for name, value in stored.items() if name != "dtypes"}
    try:
        return Settings.model_validate({**stored, **flags})
    except ValueError as error:
        raise SettingsError(f"{run.directory.path}: {error}") from error


def _verdict(differing: list[str]) -> str:
    if not differing:
        return (
            "By nothing more than chance would give (5 %): these prompts do not tell the two apart."
        )
    return f"More than chance (5 %): {'; '.join(differing)}."
