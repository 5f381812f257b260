"""`excise export`: write the edit of a run as a model or as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.cli.run_command import check_early
from excise.cli.screen import Screen, make_screen
from excise.cli.stored import StoredRun, figures, open_stored
from excise.errors import SettingsError
from excise.model.writers import examine
from excise.run import events
from excise.run.export import require_rewritable, save_model, save_model_adapter
from excise.run.prepare import load_runner
from excise.run.reproduction import record_saved, reproduction_of


def export(word: str, flags: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """Export from the run directory `word`. Returns the exit status."""
    run = open_stored(Path(word).expanduser(), flags, environment)
    settings = run.settings
    if settings.save is None and settings.adapter is None:
        raise SettingsError("export: say where to: --save DIR, --adapter DIR, or both")
    check_early(settings)
    with make_screen(settings) as screen:
        write(run, run.choice(), screen, save=settings.save, adapter=settings.adapter)
    return 0


def write(
    run: StoredRun,
    number: int,
    screen: Screen,
    *,
    save: Path | None = None,
    adapter: Path | None = None,
) -> None:
    """Write trial `number` of a run into new folders. Raises RunError, SaveError."""
    settings, source = run.settings, run.source()
    if save is not None:
        require_rewritable(source, settings.quantization)
    edit = run.directory.edit(number)
    text = figures(run.directory.record(), number, edit)
    hardware = not settings.no_hardware
    known = reproduction_of(run.directory, source, number, "model", text, hardware=hardware)
    loaded, _ = load_runner(settings, source, screen)
    anatomy = examine(loaded.model, settings.writers)
    screen(events.Note(f"exporting trial {number}"))
    if save is not None:
        save_model(loaded, anatomy, edit, save, text, screen)
        record_saved(known, save, edit, loaded, anatomy)
    if adapter is not None:
        save_model_adapter(loaded, anatomy, edit, adapter, text, screen)
        as_adapter = known.model_copy(update={"made": "adapter"})
        record_saved(as_adapter, adapter, edit, loaded, anatomy)
