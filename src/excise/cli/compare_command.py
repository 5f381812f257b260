"""`excise compare`: two edits on the same held-out prompts."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from excise.app.compare import compare as measure_both
from excise.app.model import prompts_of
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.cli.stored import open_run_named
from excise.cli.tables import differences_table
from excise.config import Inputs, Settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import RunError
from excise.events import Note
from excise.store.directory import prompts_digest


def compare(words: tuple[str, str], inputs: Inputs) -> int:
    """Compare the edits that two words RUN[:TRIAL] name. Returns the exit status."""
    # All settings of the run, with those that were typed in their place. Old edits may be of kinds that are
    # no longer searched.
    fields = [field for field in Settings.model_fields if field != "kinds"]
    first, second = (open_run_named(word, inputs, fields) for word in words)
    as_json = first.settings.json_lines
    identity, other = first.directory.identity(), second.directory.identity()
    if other.model_digest != identity.model_digest:
        raise RunError(
            f"{second.directory.path} is of another model than {first.directory.path}; edits of one model "
            "can be compared"
        )
    if other.prompts_digest != identity.prompts_digest:
        raise RunError(
            f"{second.directory.path} had other prompts than {first.directory.path}: the training prompts of "
            "one run may be held-out prompts of the other; compare runs on the same prompts"
        )
    if not identity.names_prompts:
        raise RunError(
            f"{first.directory.path}: the prompts were given in memory, and no file names them; score the "
            "edits in Python (Experiment.score)"
        )
    edits = first.directory.edit(first.choice()), second.directory.edit(second.choice())
    names = [f"{run.directory.path}:{run.choice()}" for run in (first, second)]
    with screen_beside_result(first.settings) as screen:
        source = first.source(screen)
        screen(Note(f"reading the prompts of {', '.join(prompt_sources(first.settings).names())}"))
        prompts = prompts_of(first.settings)
        if prompts_digest(prompts) != identity.prompts_digest:
            raise RunError(
                f"{first.directory.path}: the prompts have changed since this run, so that held-out prompts "
                "may be training prompts of its edits; put the prompts of the run back"
            )
        found = measure_both(first.settings, prompts, source, edits, screen)
        if as_json:
            write_json([{**asdict(each), "significant": each.significant} for each in found])
        else:
            screen.show(differences_table(names[0], names[1], found))
            screen.show(Text(_verdict([each.figure for each in found if each.significant])))
    return 0


def _verdict(significant: list[str]) -> str:
    if not significant:
        return "No difference is significant (p < 0.05)."
    return f"Significant differences (p < 0.05): {'; '.join(significant)}."
