"""Applies an edit to a checkpoint on disk, for `excise apply`, `excise export` and `--save`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.source import ModelSource, resolve
from excise.edits.base import require_base
from excise.edits.edit import Edit
from excise.errors import SaveError
from excise.events import Emit, Note, StageStarted, ignore
from excise.report.card import figures_in, model_card
from excise.reproduce.record import NAME
from excise.rewrite.gguf_plan import make_gguf_plan
from excise.rewrite.plan import Form, Plan, make_plan
from excise.rewrite.resumable_folder import require_new_folder
from excise.rewrite.write import Progress, write_checkpoint, write_gguf
from excise.saving.events import Saved, Streamed, Verified
from excise.saving.options import DescribedEdit, SaveOptions
from excise.saving.reproduction import model_record
from excise.system.paths import expanded

_STEP = 0.25
"""Share of the bytes after which a progress event is emitted."""


def apply(
    edit: Edit | str | Path,
    model: str | Path,
    out: str | Path,
    options: SaveOptions = SaveOptions(),
    *,
    revision: str | None = None,
    emit: Emit = ignore,
) -> None:
    """Write the edited copy of a checkpoint, shard by shard; the model is never loaded.

    edit: an edit, or the path of an edit file. model: a local folder, a .gguf file or a hub id, which may be
    of a `revision`. out: a new folder, or a new file whose name ends in .gguf for a GGUF file. emit: takes
    the events. Raises RunError for an edit file that cannot be read, ModelError for a model that cannot be
    read or that the edit does not fit, SaveError for what cannot be written; nothing half-written is left.
    """
    if not isinstance(edit, Edit):
        edit = Edit.load(edit)
    described = DescribedEdit(edit, figures_in(edit))
    source = resolve_new(model, out, revision, options)
    plan_application(described, source, expanded(out), options, emit).write()


def resolve_new(
    model: str | Path, out: str | Path, revision: str | None, options: SaveOptions
) -> ModelSource:
    """The files of a model, if `out` can be written. Raises ModelError, SaveError."""
    require_new_folder(expanded(out))
    return resolve(str(model), revision, code=options.trust_remote_code)


@dataclass(frozen=True)
class Application:
    """An edit with the plan of its application to a checkpoint; nothing is written yet."""

    described: DescribedEdit
    source: ModelSource
    destination: Path
    options: SaveOptions
    plan: Plan
    emit: Emit

    def in_form(self, form: Form) -> Application:
        """The application with packed matrices in another form. Raises SaveError if that is impossible."""
        options = replace(self.options, packed=form)
        plan = plan_for(self.described.edit, self.source, options)
        return replace(self, options=options, plan=plan)

    def write(self, extra: Mapping[str, str] | None = None) -> None:
        """Write the edited copy. extra: further files, by name. Raises SaveError or ModelError."""
        plan, emit, known = self.plan, self.emit, self.described.record
        emit(StageStarted("save", f"Writing the edited model to {self.destination}"))
        if plan.checkpoint.files[0].kind == "gguf":
            for text in _changed_types(plan):
                emit(Note(text))
            kept = write_gguf(plan, self.destination, _progress(emit))
        else:
            for text in _folder_notes(plan):
                emit(Note(text))
            figures, recorded = self.described.figures, known is not None
            card = model_card(self.source, plan.edit, figures, adapter=False, recorded=recorded)
            texts = {"README.md": card, **(extra or {})}
            if self.options.chat_template is not None:
                texts["chat_template.jinja"] = self.options.chat_template

            def record(folder: Path) -> Mapping[str, str]:
                return {} if known is None else {NAME: model_record(known, plan, folder).text()}

            kept = write_checkpoint(
                plan, self.source.digest, self.destination, texts, _progress(emit), record
            )
        untouched = len(plan.checkpoint.tensors) - len(plan.changes) - len(plan.dropped)
        emit(Verified(len(plan.rewrites), untouched, kept.share))
        emit(Saved("model", str(self.destination)))


def plan_application(
    described: DescribedEdit,
    source: ModelSource,
    destination: Path,
    options: SaveOptions = SaveOptions(),
    emit: Emit = ignore,
) -> Application:
    """Plan the application of an edit; reads only headers. Raises ExciseError."""
    require_base(described.edit.base, source, force=options.force, emit=emit)
    to_gguf = destination.suffix.lower() == ".gguf"
    if source.gguf is not None:
        if not to_gguf:
            raise SaveError(
                f"{destination}: the copy of a GGUF file needs a name that ends in .gguf; to save the edit "
                "of a run as a model folder: `excise export RUN --save DIR`"
            )
        path = source.folder / source.gguf
        plan = make_gguf_plan(path, described.edit, options.writers)
    else:
        if to_gguf:
            raise SaveError(
                f"{destination}: only a GGUF file becomes a GGUF file; {source.name} is a folder"
            )
        _require_apart(source.folder, destination)
        plan = plan_for(described.edit, source, options)
    return Application(described, source, destination, options, plan, emit)


def _require_apart(folder: Path, destination: Path) -> None:
    target = destination.resolve()
    if target.is_relative_to(folder) or folder.is_relative_to(target):
        raise SaveError(
            f"{destination}: this folder or {folder} contains the other; choose another place"
        )


def plan_for(edit: Edit, source: ModelSource, options: SaveOptions = SaveOptions()) -> Plan:
    """Plan the application to the folder of `source`; reads only headers. Raises ExciseError."""
    return make_plan(
        source.name,
        open_checkpoint(source.folder),
        edit,
        form=options.packed,
        declared=options.writers,
        trust_remote_code=options.trust_remote_code,
    )


def _changed_types(plan: Plan) -> Iterator[str]:
    changed = Counter(
        (rewrite.entry.dtype, rewrite.output.dtype)
        for rewrite in plan.rewrites.values()
        if rewrite.entry.dtype != rewrite.output.dtype
    )
    for (before, after), count in changed.items():
        yield (
            f"{before} cannot be written: {count} tensors become {after}, the nearest larger type; the "
            f"weights take {plan.size:,} bytes in all"
        )


def _folder_notes(plan: Plan) -> Iterator[str]:
    """Notes about files and tensors that are left out or not edited."""
    checkpoint, companions = plan.checkpoint, plan.checkpoint.companions
    for left, reason in (
        (companions.left_out, "it holds a second, unedited copy of the weights"),
        (companions.unread, "it may hold a second, unedited copy of the weights, and is not read"),
        (companions.linked, "it is a link to a folder"),
    ):
        if left:
            yield f"left out, because {reason}: {', '.join(map(str, left))}"
    for file in companions.weights:
        edited = plan.companion_weights.get(file.path)
        what = (
            f"edited in {len(edited)} tensors, which the model also has; the other tensors are copied"
            if edited
            else "copied without edits: the model has none of its tensors"
        )
        yield f"{plan.name_of(file)}: {what}"
    if absent := checkpoint.absent_code:
        yield (
            f"config.json names Python files that are missing here ({', '.join(absent)}); "
            "trust_remote_code (--trust-remote-code) downloads and copies them"
        )
    if drafts := checkpoint.drafts:
        yield (
            f"the draft head ({len(drafts)} tensors, such as {drafts[0]}) is copied without edits: the "
            "edited model may accept fewer of its tokens; answers stay correct"
        )


def _progress(emit: Emit) -> Progress:
    emitted = {"write": 0.0, "verify": 0.0}

    def progress(stage: str, done: int, total: int) -> None:
        done = min(done, total)  # `total` does not count headers of files.
        share = done / total if total else 1.0
        if share >= emitted[stage] + _STEP or (done >= total and emitted[stage] < 1.0):
            emitted[stage] = 1.0 if done >= total else share
            emit(Streamed(stage, done, total))

    return progress
