"""`excise apply`: writes the edited copy of a checkpoint without loading the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.app.model import save_options
from excise.cli.ask import Ask, answer_to
from excise.cli.human import size
from excise.cli.printable import ask_person
from excise.cli.render import make_screen
from excise.cli.screen import Screen
from excise.cli.stored import figures, named_trial, settings_in, split_trial
from excise.cli.streams import is_attended
from excise.config import Inputs, Stored, gather
from excise.edits.edit import Edit
from excise.errors import SaveError, SettingsError
from excise.events import Note
from excise.report.card import figures_in
from excise.rewrite.plan import Form, Plan
from excise.rewrite.tensor_data import rounding_of
from excise.saving.apply import Application, plan_application, resolve_new
from excise.saving.options import DescribedEdit
from excise.store.directory import RunDirectory
from excise.system.paths import expanded

_TRUST = ("trust_remote_code",)


@dataclass(frozen=True)
class _NamedEdit:
    """The edit that an argument names.

    stored: the run's setting of remote code, if the edit is in a run directory. writers: the run's claims
    about writers.
    """

    described: DescribedEdit
    stored: Stored | None
    writers: tuple[str, ...]


def apply(words: Sequence[str], inputs: Inputs, *, force: bool, ask: Ask = ask_person) -> int:
    """Apply an edit. words: EDIT, MODEL and OUT. Returns the exit status."""
    word, model, out = words
    named = _named_edit(word)
    settings = inputs.with_flags(model=model).settings(named.stored)
    if named.writers and "writers" not in settings.model_fields_set:
        # Environment and excise.toml come first: MODEL may be another model than the run's.
        settings = settings.model_copy(update={"writers": named.writers})
    options = save_options(settings, force=force)
    with make_screen(settings) as screen:
        source = resolve_new(settings.model, out, settings.revision, options)
        if source.gguf is not None and "packed" in inputs.flags:
            raise SettingsError(
                f"--packed: {model} is a GGUF file, whose tensors keep their own types"
            )
        planned = plan_application(named.described, source, expanded(out), options, screen)
        attended = is_attended() and not (settings.yes or settings.json_lines)
        asked = attended and "packed" not in settings.model_fields_set
        _chosen(planned, screen, ask if asked else None).write()
    return 0


def _named_edit(word: str) -> _NamedEdit:
    """The edit that `word` names: a file, a run directory, or RUN:TRIAL."""
    path = expanded(word)
    if path.is_file() or path.suffix.lower() == ".safetensors":
        edit = Edit.load(path)
        described = DescribedEdit(edit, figures_in(edit))
        directory = RunDirectory(path.parent)
        if not (path.parent / "run.json").is_file():
            return _NamedEdit(described, None, ())
    else:
        folder, trial = split_trial(word)
        directory = RunDirectory(folder)
        number = named_trial(directory, trial)
        edit = directory.edit(number)
        described = DescribedEdit(edit, figures(directory.record(), number, edit))
    return _NamedEdit(described, settings_in(directory, _TRUST), _writers(directory))


def _writers(directory: RunDirectory) -> tuple[str, ...]:
    """The run's declared writers. Raises SettingsError for an invalid list."""
    stored = settings_in(directory, ("writers",))
    return gather({}, {}, Path(os.devnull), stored, needs_model=False).writers


def _chosen(planned: Application, screen: Screen, ask: Ask | None) -> Application:
    """The application with packed writers in the form that the user chooses, after a note about sizes."""
    plan, form = planned.plan, planned.options.packed
    if planned.source.gguf is not None or plan.packed is None:
        return planned
    forms: dict[Form, Application] = {form: planned}
    other: Form = "plain" if form == "same" else "same"
    try:
        forms[other] = planned.in_form(other)
        choices = " · ".join(f"{name} {_cost(each.plan)}" for name, each in sorted(forms.items()))
    except SaveError as error:
        choices = f"{form} {_cost(plan)}; {error}"
    screen(
        Note(
            f"writers are stored as {plan.packed}. --packed: {choices}. An adapter does not change them: "
            "excise export RUN --adapter DIR"
        )
    )
    if ask is None or other not in forms:
        return planned
    answer = answer_to(ask, f"Write them as [s]ame / [p]lain [{form[0]}]: ")
    return forms[other] if answer[:1].lower() == other[0] else planned


def _cost(plan: Plan) -> str:
    """The size on disk of a form, and its rounding error relative to a matrix."""
    return f"{size(plan.size)}, rounding {rounding_of(plan):.2%}"
