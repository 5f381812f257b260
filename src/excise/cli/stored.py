"""Opens runs and edit files that a command-line argument names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.app.model import source_of
from excise.checkpoint.source import ModelSource
from excise.cli.run_command import DEFAULT_SELECTION
from excise.config import Inputs, Settings, Stored
from excise.config.digest import UNSTORED
from excise.config.places import PlacedValue, naming
from excise.edits.edit import Edit
from excise.errors import RunError
from excise.events import Emit, Note
from excise.report.card import figures_in, figures_of
from excise.search.front import Point
from excise.search.objective import objectives_in
from excise.search.select import select
from excise.store.directory import RunDirectory
from excise.store.outcome import outcome_of, point_in
from excise.system.paths import expanded, is_drive

LOADING = (
    "model",
    "revision",
    "dtypes",
    "quantization",
    "trust_remote_code",
    "writers",
    "chat_template",
    "template_arguments",
    "system_prompt",
    "max_new_tokens",
)
"""The stored settings with which the model of a run is loaded and asked."""


@dataclass(frozen=True)
class StoredRun:
    """A run directory, the settings of the command that opened it, and the trial of RUN:TRIAL."""

    directory: RunDirectory
    settings: Settings
    trial: str | None = None

    def source(self, emit: Emit) -> ModelSource:
        """The model's files, named in a note. Raises RunError if the weights have changed since the run."""
        note_named(self.settings, str(self.directory.path / "run.json"), emit)
        source = source_of(self.settings)
        digest = self.directory.identity().model_digest
        if source.digest != digest:
            hub = source.revision is not None
            raise RunError(
                f"{self.directory.path}: the weights of {self.settings.model} have changed since "
                f"this run{f'; give --revision {digest}' if hub else ''}"
            )
        return source

    def choice(self) -> int:
        """The trial of RUN:TRIAL, else the selected trial, else the chosen trial, else the knee."""
        if self.trial is not None:
            return named_trial(self.directory, self.trial)
        with self.settings.naming_places():
            return chosen_trial(self.directory, self.settings.select)


def settings_in(directory: RunDirectory, fields: Collection[str]) -> Stored:
    """The values of these settings in `run.json`. Raises RunError."""
    settings = {**UNSTORED, **directory.identity().settings}
    return Stored(
        str(directory.path / "run.json"),
        {field: settings[field] for field in fields if field in settings},
    )


def open_run_named(word: str, inputs: Inputs, fields: Collection[str] = LOADING) -> StoredRun:
    """The run RUN or RUN:TRIAL, TRIAL being a number, knee or fewest, with the settings it was made with.

    fields: the stored settings that count; flags replace them. Raises RunError if the run does not exist,
    SettingsError as `gather` does.
    """
    path, trial = split_trial(word)
    directory = RunDirectory(path)
    return StoredRun(directory, inputs.settings(settings_in(directory, fields)), trial)


def note_named(settings: Settings, place: str, emit: Emit) -> None:
    """Note the files that a stored file names, before they are downloaded or read: its author chose them."""
    text = f"the model is {settings.model}, as {place} says"
    if not expanded(settings.model).exists():
        text += "; files that are not on this machine are downloaded from the hub"
    emit(Note(text))
    if settings.chat_template is not None:
        emit(Note(f"the chat template is {settings.chat_template}"))


def open_named(word: str, inputs: Inputs) -> StoredRun | None:
    """The run that `word` names, or None if `word` is a folder without a run."""
    path = expanded(word)
    if path.is_dir() and not (path / "run.json").is_file():
        return None
    if not path.exists() and not split_trial(word)[0].is_dir():
        raise RunError(f"{word}: no such run or folder")
    return open_run_named(word, inputs)


def split_trial(word: str) -> tuple[Path, str | None]:
    """RUN:TRIAL as a path and a selection, which is None for RUN or a file."""
    path, _, trial = word.rpartition(":")
    drive = is_drive(path) and not Path(path).is_dir()
    if path and not drive and (trial.isdecimal() or trial in ("knee", "fewest")):
        return expanded(path), trial
    return expanded(word), None


def edit_path(word: str) -> Path:
    """The edit file that EDIT or RUN[:TRIAL] names. Raises RunError or SettingsError."""
    path, trial = split_trial(word)
    if trial is None and not path.is_dir():
        if not path.exists():
            raise RunError(f"{word}: no such edit file or run directory")
        return path
    directory = RunDirectory(path)
    return directory.edit_path(named_trial(directory, trial))


def named_trial(directory: RunDirectory, trial: str | None) -> int:
    """The trial of RUN:TRIAL; for RUN alone the chosen trial, else the knee. Raises SettingsError."""
    word = f"{directory.path}:{trial}"
    with naming({"select": PlacedValue(trial, word, word)}):
        return chosen_trial(directory, trial)


def chosen_trial(directory: RunDirectory, selection: str | None) -> int:
    """The trial of the front that `selection` names, else the chosen trial, else the knee."""
    record: dict[str, Any] = directory.record()
    if selection is None:
        chosen = record["chosen"]
        selection = str(chosen["trial"]) if chosen else DEFAULT_SELECTION
    return select(front_of(record), selection).number


def front_of(record: Mapping[str, Any]) -> list[Point]:
    """The Pareto front of a record, in the order of the first objective."""
    trials = {trial["number"]: trial for trial in record["trials"]}
    objectives = objectives_in(record)
    return [point_in(number, trials[number], objectives) for number in record["front"]]


def figures(record: Mapping[str, Any], number: int, edit: Edit) -> str:
    """The figures of a trial as Markdown: of held-out prompts if the trial was chosen."""
    outcome = outcome_of(record)
    if outcome is None or outcome.trial != number:
        return figures_in(edit, record["coverage"])
    return figures_of(outcome, record["coverage"])
