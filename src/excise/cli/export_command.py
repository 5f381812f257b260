"""`excise export`: write the edit of a run as a model or as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.cli.run_command import check_early
from excise.cli.screen import make_screen
from excise.cli.stored import figures, open_stored
from excise.errors import SettingsError
from excise.model.writers import examine
from excise.run import events
from excise.run.export import require_rewritable, save_model, save_model_adapter
from excise.run.prepare import load_runner


def export(word: str, flags: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """Export from the run directory `word`. Returns the exit status."""
    run = open_stored(Path(word).expanduser(), flags, environment)
    settings = run.settings
    if settings.save is None and settings.adapter is None:
        raise SettingsError("export: say where to: --save DIR, --adapter DIR, or both")
    check_early(settings)
    source = run.source()
    if settings.save is not None:
        require_rewritable(source, settings.writers, trust_remote_code=settings.trust_remote_code)
    number = run.choice()
    edit = run.directory.edit(number)
    text = figures(run.directory.record(), number, edit)
    with make_screen(settings) as screen:
        loaded, _ = load_runner(settings, source, screen)
        anatomy = examine(loaded.model, settings.writers)
        screen(events.Note(f"exporting trial {number}"))
        if settings.save is not None:
            save_model(
                loaded,
                edit,
                settings.save,
                text,
                screen,
                form=settings.packed,
                declared=settings.writers,
                trust_remote_code=settings.trust_remote_code,
            )
        if settings.adapter is not None:
            save_model_adapter(loaded, anatomy, edit, settings.adapter, text, screen)
    return 0
