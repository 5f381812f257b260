"""`excise compare`: two edits, on the same held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from rich.text import Text

from excise.app.compare import compare as measure_both
from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.stored import open_run_named
from excise.cli.tables import differences_table
from excise.config import Settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import RunError
from excise.events import Note


def compare(
    words: tuple[str, str], flags: Mapping[str, object], environment: Mapping[str, str]
) -> int:
    """Compare RUN[:TRIAL] with another; returns the exit status."""
    # The run's own settings, prompts and all, with what was typed in their place.
    fields = tuple(Settings.model_fields)
    first, second = (open_run_named(word, flags, environment, fields) for word in words)
    as_json = first.settings.json_lines
    identity, other = first.directory.identity(), second.directory.identity()
    if other.model_digest != identity.model_digest:
        raise RunError(
            f"{second.directory.path} is of another model than {first.directory.path}; edits of one model "
            "can be compared"
        )
    if other.prompts_digest != identity.prompts_digest:
        raise RunError(
            f"{second.directory.path} had other prompts than {first.directory.path}: what one held out the "
            "other may have learned from; compare runs on the same prompts"
        )
    edits = [run.directory.edit(run.choice()) for run in (first, second)]
    names = [f"{run.directory.path}:{run.choice()}" for run in (first, second)]
    with Renderer(make_console(to_errors=as_json)) as screen:
        source = first.source(screen)
        screen(Note(f"reading the prompts of {', '.join(prompt_sources(first.settings).names())}"))
        found = measure_both(first.settings, source, edits[0], edits[1], screen)
        if as_json:
            write_json([{**asdict(one), "differs": one.differs} for one in found])
        else:
            screen.show(differences_table(names[0], names[1], found))
            screen.show(Text(_verdict([one.what for one in found if one.differs])))
    return 0


def _verdict(differing: list[str]) -> str:
    if not differing:
        return (
            "By nothing more than chance would give (5 %): these prompts do not tell the two apart."
        )
    return f"More than chance (5 %): {'; '.join(differing)}."
