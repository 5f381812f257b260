"""`excise export`: writes the edit of a run as a model or adapter, or an edit file as an adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from excise.app.model import given_template, load_model, save_options, source_of
from excise.cli.render import make_screen
from excise.cli.run_command import check_early
from excise.cli.screen import Screen
from excise.cli.stored import StoredRun, figures, note_named, open_run_named
from excise.config import Inputs, Stored, flag_name
from excise.edits.base import require_base
from excise.edits.edit import Edit
from excise.edits.stored import packed_whole
from excise.errors import SettingsError
from excise.events import Note
from excise.report.card import figures_in
from excise.saving.adapter import save_model_adapter
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.saving.reproduction import reproduction_of
from excise.system.paths import expanded

_OF_EDIT_FILES = ("revision", "trust_remote_code", "writers", "save", "adapter", "json_lines")
"""The settings that an edit file's export takes; `save` has its own error message."""


def export(word: str, model: str | None, inputs: Inputs, *, force: bool = False) -> int:
    """Export the edit of a run, or an edit file. Returns the exit status.

    force: write the adapter of an edit file for another model than its own.
    """
    path = expanded(word)
    if path.is_file():
        return _export_file(path, model, inputs, force=force)
    if model is not None:
        raise SettingsError(
            f"{model}: MODEL goes with an edit file, but {path} is a run, which names its model"
        )
    if force:
        raise SettingsError(f"--force: goes with an edit file, but {path} is a run")
    return _export_run(word, inputs)


def _export_file(path: Path, model: str | None, inputs: Inputs, *, force: bool) -> int:
    """Export an edit file as an adapter, from its base model or a copy of it."""
    if of_runs := [flag_name(field) for field in inputs.flags if field not in _OF_EDIT_FILES]:
        raise SettingsError(f"{of_runs[0]}: goes with a run, but {path} is an edit file")
    edit = Edit.load(path)
    stored: Stored | None = None
    if model is not None:
        inputs = inputs.with_flags(model=model)
    elif edit.base is not None:
        named = {"model": edit.base.model, "revision": edit.base.revision}
        stored = Stored(str(path), named)
    else:
        raise SettingsError(f"{path} does not name its model; name it: excise export EDIT MODEL")
    settings = inputs.settings(stored)
    if settings.adapter is None or settings.save is not None:
        raise SettingsError(
            "export: an edit file becomes an adapter: --adapter DIR; to write the edited model: excise apply "
            "EDIT MODEL OUT"
        )
    with make_screen(settings) as screen:
        check_early(settings)
        if stored is not None:
            note_named(settings, stored.place, screen)
        options = save_options(settings, force=force)
        source = source_of(settings)
        require_base(edit.base, source, force=force, emit=screen)
        described = DescribedEdit(edit, figures_in(edit))
        save_model_adapter(source, described, settings.adapter, options, screen)
    return 0


def _export_run(word: str, inputs: Inputs) -> int:
    run = open_run_named(word, inputs)
    settings = run.settings
    if settings.save is None and settings.adapter is None:
        raise SettingsError("export: give a destination: --save DIR, --adapter DIR, or both")
    with make_screen(settings) as screen:
        check_early(settings)
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
    settings, source = run.settings, run.source(screen)
    edit = run.directory.edit(number)
    text = figures(run.directory.record(), number, edit)
    hardware = not settings.no_hardware
    record = None
    if reason := run.directory.irreproducible():
        screen(Note(f"no reproduce.json is written: {reason}"))
    else:
        record = reproduction_of(run.directory, source, number, text, hardware=hardware)
    screen(Note(f"exporting trial {number}"))
    described = DescribedEdit(edit, text, record)
    options = save_options(settings)
    if save is not None and source.gguf is None:
        template = given_template(settings, source)
        with_template = replace(options, chat_template=template)
        save_model(source, described, save, with_template, screen)
        save = None
    if adapter is not None and packed_whole(source) is None and settings.quantization == "none":
        save_model_adapter(source, described, adapter, options, screen)
        adapter = None
    if save is None and adapter is None:
        return
    # Only loading unpacks the weights.
    loaded = load_model(settings, source, screen)
    if save is not None:
        save_model(loaded, described, save, options, screen)
    if adapter is not None:
        save_model_adapter(loaded, described, adapter, options, screen)
