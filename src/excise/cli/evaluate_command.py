"""`excise evaluate`: a model, an edit or a run's trial, before and after, on prompts or on benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.text import Text

from excise.app.before_after import Subject
from excise.app.benchmark import BenchmarkRow, benchmark_rows
from excise.app.evaluate import evaluate as measure
from excise.app.model import source_of
from excise.benchmarks.options import BenchmarkOptions
from excise.cli.command import PROMPTS, SCORES
from excise.cli.render import Renderer, screen_beside_result
from excise.cli.screen import write_json
from excise.cli.stored import LOADING, note_named, open_run_named, split_trial
from excise.cli.tables import benchmark_table, evaluation_table, group_tables
from excise.config import Inputs, Settings, Stored, flag_name
from excise.config.prompt_sources import prompt_sources
from excise.edits.base import require_base
from excise.edits.edit import Edit
from excise.errors import RunError, SettingsError
from excise.events import Emit, Note

_PROMPTS = frozenset((*PROMPTS, *SCORES)) - {"batch_size"}
"""The settings that count on prompts only."""
_OF_RUN = tuple(field for field in Settings.model_fields if field != "kinds")
"""Old edits may be of kinds that are no longer searched."""

Subjects = Callable[[Emit], Subject]
"""Finds the files, whose names and downloads it notes."""


@dataclass(frozen=True)
class Measurement:
    """What `excise evaluate` measures, beside settings.

    against: the original model; runs and edits name theirs. benchmarks: names, separated by commas; None to
    measure on prompts. options: of benchmarks, as far as they are no settings. force: measure an edit on
    another model than its own.
    """

    against: str | None = None
    benchmarks: str | None = None
    options: BenchmarkOptions = BenchmarkOptions()
    force: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the benchmarks."""
        return (
            [] if self.benchmarks is None else [each.strip() for each in self.benchmarks.split(",")]
        )


def evaluate(word: str | None, inputs: Inputs, wanted: Measurement) -> int:
    """Measure what `word` names before and after its edit. Returns the exit status."""
    _refuse_ignored(inputs, wanted)
    settings, subjects = _named(word, inputs, wanted)
    with screen_beside_result(settings) as screen:
        if wanted.names:
            _on_benchmarks(subjects(screen), wanted, screen)
        else:
            _on_prompts(subjects(screen), screen)
    return 0


def _on_prompts(subject: Subject, screen: Renderer) -> None:
    screen(Note(f"reading the prompts of {', '.join(prompt_sources(subject.settings).names())}"))
    evaluation = measure(subject, screen)
    if subject.settings.json_lines:
        write_json(asdict(evaluation))
    else:
        screen.show(evaluation_table(evaluation))
        for name, figures in evaluation.parts.items():
            for table in group_tables(figures.groups, name):
                screen.show(table)


def _on_benchmarks(subject: Subject, wanted: Measurement, screen: Renderer) -> None:
    settings, given = subject.settings, wanted.options
    options = replace(
        given,
        batch_size=settings.batch_size,
        system_prompt=settings.system_prompt,
        seed=settings.seed,
    )
    how = "as plain text" if given.plain_text else "with the model's chat template"
    screen(Note(f"benchmarks are asked {how}"))
    rows = benchmark_rows(subject, wanted.names, options, screen)
    if settings.json_lines:
        asked = {
            "model": subject.name,
            "against": subject.against if subject.is_pair else None,
            "chat_template": not given.plain_text,
            "limit": given.limit,
            "benchmarks": [row.as_json() for row in rows],
        }
        write_json(asked)
    else:
        screen.show(benchmark_table(subject.name, rows))
        if subject.is_pair:
            screen.show(Text(_verdict(rows)))


def _verdict(rows: Sequence[BenchmarkRow]) -> str:
    found = [f"{row.before.task} {row.before.title}" for row in rows if row.significant]
    if not found:
        return "No difference is significant (p < 0.05)."
    return f"Significant differences (p < 0.05): {'; '.join(found)}."


def _named(word: str | None, inputs: Inputs, wanted: Measurement) -> tuple[Settings, Subjects]:
    """The settings of what `word` names: a run, an edit file or a model."""
    if word is not None:
        path = split_trial(word)[0]
        if (path / "run.json").is_file():
            return _of_a_run(word, inputs, wanted)
        if path.is_file() and path.suffix != ".gguf":
            return _of_an_edit(path, inputs, wanted)
    if wanted.force:
        raise SettingsError("--force: goes with an edit file")
    return _of_a_model(inputs.with_flags(model=word).settings(), wanted)


def _of_a_run(word: str, inputs: Inputs, wanted: Measurement) -> tuple[Settings, Subjects]:
    if wanted.against is not None or wanted.force:
        flag = "--force" if wanted.against is None else f"--against {wanted.against}"
        raise SettingsError(f"{flag}: {word} is a run, which names its original model")
    run = open_run_named(word, inputs, LOADING if wanted.names else _OF_RUN)
    if not wanted.names and not run.directory.identity().names_prompts:
        raise RunError(
            f"{run.directory.path}: the prompts were given in memory, and no file names them; score the edit "
            "in Python (Experiment.score)"
        )
    number = run.choice()
    edit = run.directory.edit(number)
    name = f"{run.directory.path}:{number}"

    def subject(emit: Emit) -> Subject:
        source = run.source(emit)
        return Subject(name, run.settings.model, run.settings, source, edit=edit)

    return run.settings, subject


def _of_an_edit(path: Path, inputs: Inputs, wanted: Measurement) -> tuple[Settings, Subjects]:
    edit = Edit.load(path)
    stored: Stored | None = None
    if wanted.against is not None:
        inputs = inputs.with_flags(model=wanted.against)
    elif edit.base is not None:
        stored = Stored(str(path), {"model": edit.base.model, "revision": edit.base.revision})
    else:
        raise SettingsError(f"{path} does not name its model; name it: --against ORIGINAL")
    settings = inputs.settings(stored)

    def subject(emit: Emit) -> Subject:
        if stored is not None:
            note_named(settings, stored.place, emit)
        source = source_of(settings)
        require_base(edit.base, source, force=wanted.force, emit=emit)
        return Subject(str(path), settings.model, settings, source, edit=edit)

    return settings, subject


def _of_a_model(settings: Settings, wanted: Measurement) -> tuple[Settings, Subjects]:
    against = wanted.against
    if against is None and not wanted.names:
        raise SettingsError(
            f"evaluate: {settings.model} is a model; name its original (--against ORIGINAL), or benchmarks "
            "(--benchmarks NAME,…)"
        )

    def subject(emit: Emit) -> Subject:
        if against is not None:
            return Subject.of_models(settings, against)
        return Subject(settings.model, settings.model, settings, source_of(settings))

    return settings, subject


def _refuse_ignored(inputs: Inputs, wanted: Measurement) -> None:
    """Raise SettingsError for flags that would change nothing."""
    if wanted.names:
        if typed := [field for field in inputs.flags if field in _PROMPTS]:
            raise SettingsError(
                f"{flag_name(typed[0])}: does not affect benchmarks; leave it out, or leave out --benchmarks"
            )
        return
    given = wanted.options
    for flag, value in (
        ("--benchmark-limit", given.limit),
        ("--benchmark-tasks", given.tasks),
        ("--benchmark-plain-text", given.plain_text),
    ):
        if value:
            raise SettingsError(f"{flag}: goes with --benchmarks")
