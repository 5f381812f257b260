"""Decides before the model is loaded whether to resume an existing run."""

from __future__ import annotations

from excise.app.run import in_markers_of_run, run_path
from excise.cli.ask import Ask
from excise.cli.human import plural
from excise.cli.screen import Screen
from excise.config import Settings, settings_digest
from excise.events import Note
from excise.search.study import DONE
from excise.store.directory import RunDirectory
from excise.store.opening import require_idle
from excise.system.files import next_free


def where_to_run(settings: Settings, screen: Screen, ask: Ask | None) -> Settings | None:
    """The settings to run with, perhaps with a new run directory; None if the user quits.

    ask: None resumes an existing run, with a note. Raises RunError if another process is using it.
    """
    directory = RunDirectory(run_path(settings))
    require_idle(directory)
    done = _trials_done(directory, settings)
    if done == 0:
        return settings
    complete = done >= settings.trials
    existing = (
        f"A complete run of {plural(done, 'trial')} is in {directory.path}"
        if complete
        else f"A run with {done} of {settings.trials} trials is in {directory.path}"
    )
    if ask is None:
        screen(Note(f"{existing}; {'nothing is left to search' if complete else 'continuing it'}"))
        return settings
    new = next_free(directory.path)
    question = (
        f"{existing}: [g]o {'to its results' if complete else 'on'} / start a[n]ew in {new} / [q]uit"
        " [g]: "
    )
    while True:
        try:
            answer = ask(question).strip().lower()
        except EOFError:
            return None
        match answer:
            case "" | "g" | "go" | "go on":
                return settings
            case "n" | "new" | "anew":
                return settings.model_copy(update={"run_dir": new})
            case "q" | "quit":
                return None


def _trials_done(directory: RunDirectory, settings: Settings) -> int:
    """Finished trials of a run with these settings; 0 without such a run.

    For a run with other settings, `open_run` reports the differences later.
    """
    if not directory.is_run or not directory.result.exists():
        return 0
    if directory.identity().settings_digest != settings_digest(in_markers_of_run(settings)):
        return 0
    trials = directory.record()["trials"]
    assert isinstance(trials, list)
    return sum(trial["state"] in DONE for trial in trials)
