"""`excise apply`: an edit and a checkpoint become the edited checkpoint; the model is never loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from excise.checkpoint.source import ModelSource, resolve
from excise.cli.human import size
from excise.cli.printable import ask_person
from excise.cli.screen import Screen, make_screen
from excise.cli.session import Ask, answer_to
from excise.cli.stored import chosen_trial, figures, settings_in, split_trial
from excise.cli.streams import is_attended
from excise.config import Settings, Stored, gather
from excise.edits.edit import Edit, load_edit
from excise.errors import SaveError, SettingsError
from excise.events import Note
from excise.report.card import figures_in
from excise.rewrite.plan import Form, Plan
from excise.rewrite.resumable_folder import require_new_folder
from excise.rewrite.tensor_data import rounding_of
from excise.saving.apply import apply_edit, apply_to_gguf, plan_for, require_base
from excise.store.directory import RunDirectory
from excise.system.paths import expanded

_TRUST = ("trust_remote_code",)


@dataclass(frozen=True)
class _Given:
    """An edit, what is known of it as text, and what its run says of the settings, if it lies in one.

    stored: what it says of running code. writers: the claims about writers that the edit was made with.
    """

    edit: Edit
    figures: str
    stored: Stored | None
    writers: tuple[str, ...]


def apply(
    words: Sequence[str],
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    *,
    force: bool,
    ask: Ask = ask_person,
) -> int:
    """Apply an edit, `words` being EDIT MODEL OUT; returns the exit status."""
    word, model, out = words
    given = _given(word)
    settings = gather({**flags, "model": model}, environment, None, given.stored)
    if given.writers and "writers" not in settings.model_fields_set:
        # Below the environment: the model need not be the run's own.
        settings = settings.model_copy(update={"writers": given.writers})
    destination = expanded(out)
    with make_screen(settings) as screen:
        require_new_folder(destination)
        source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
        require_base(given.edit, source, force=force, emit=screen)
        if source.gguf is not None:
            if "packed" in flags:
                raise SettingsError(
                    f"--packed: {model} is a GGUF file, which says by itself how each tensor is packed"
                )
            apply_to_gguf(given.edit, source, destination, settings.writers, screen)
            return 0
        if destination.suffix.lower() == ".gguf":
            raise SaveError(
                f"{destination}: a GGUF file is made of a GGUF file; {model} is a folder"
            )
        _require_apart(source.folder, destination)
        plan = _plan(given.edit, source, settings, settings.packed)
        attended = is_attended() and not (settings.yes or settings.json_lines)
        asked = attended and "packed" not in settings.model_fields_set
        plan = _chosen(plan, given.edit, source, settings, screen, ask if asked else None)
        apply_edit(plan, source, destination, given.figures, screen)
    return 0


def _given(word: str) -> _Given:
    """The edit that `word` names: a file, a run directory, or RUN:TRIAL."""
    path = expanded(word)
    if path.is_file() or path.suffix.lower() == ".safetensors":
        edit = load_edit(path)
        directory = RunDirectory(path.parent)
        inside = (path.parent / "run.json").is_file()
        stored = settings_in(directory, _TRUST) if inside else None
        return _Given(edit, figures_in(edit), stored, _writers(directory) if inside else ())
    folder, trial = split_trial(word)
    directory = RunDirectory(folder)
    stored, number = settings_in(directory, _TRUST), chosen_trial(directory, trial)
    edit = directory.edit(number)
    text = figures(directory.record(), number, edit)
    return _Given(edit, text, stored, _writers(directory))


def _writers(directory: RunDirectory) -> tuple[str, ...]:
    """The run's claims about writers. Raises SettingsError for what is no list of them."""
    stored = settings_in(directory, ("writers",))
    return gather({"model": "none is looked at"}, {}, Path(os.devnull), stored).writers


def _require_apart(folder: Path, destination: Path) -> None:
    """Raise SaveError if one folder lies inside the other."""
    target = destination.resolve()
    if target.is_relative_to(folder) or folder.is_relative_to(target):
        raise SaveError(
            f"{destination}: lies inside {folder}, or the other way round; choose another place"
        )


def _plan(edit: Edit, source: ModelSource, settings: Settings, form: Form) -> Plan:
    return plan_for(
        edit,
        source,
        form=form,
        declared=settings.writers,
        trust_remote_code=settings.trust_remote_code,
    )


def _chosen(
    plan: Plan, edit: Edit, source: ModelSource, settings: Settings, screen: Screen, ask: Ask | None
) -> Plan:
    """The plan of the form that packed writers take, shown with its size before anything is written."""
    if plan.packed is None:
        return plan
    forms: dict[Form, Plan] = {settings.packed: plan}
    other: Form = "plain" if settings.packed == "same" else "same"
    try:
        forms[other] = _plan(edit, source, settings, other)
        choices = " · ".join(f"{form} {_cost(one)}" for form, one in sorted(forms.items()))
    except SaveError as error:
        choices = f"{settings.packed} {_cost(plan)}; {error}"
    screen(
        Note(
            f"writers are stored as {plan.packed}. --packed: {choices}. An adapter leaves them alone: "
            "excise export RUN --adapter DIR"
        )
    )
    if ask is None or other not in forms:
        return plan
    answer = answer_to(ask, f"Write them as [s]ame / [p]lain [{settings.packed[0]}]: ")
    return forms[other] if answer[:1].lower() == other[0] else plan


def _cost(plan: Plan) -> str:
    """What a form takes on the disk, and what rounding to it does to a matrix."""
    return f"{size(plan.size)}, rounding {rounding_of(plan):.2%}"
