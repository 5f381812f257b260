"""Applying an edit to a checkpoint on disk: the same for `excise apply`, `excise export` and `--save`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.source import ModelSource
from excise.edits.edit import Edit
from excise.errors import SaveError
from excise.events import Emit, Note, StageStarted
from excise.report.card import model_card
from excise.reproduce.record import NAME, Reproduction
from excise.rewrite.gguf_plan import make_gguf_plan
from excise.rewrite.plan import Form, Plan, make_plan
from excise.rewrite.verify import Kept
from excise.rewrite.write import Progress, write_checkpoint, write_gguf
from excise.saving.events import Saved, Streamed, Verified
from excise.saving.reproduction import model_record

_STEP = 0.25
"""Share of the bytes after which progress is told."""


def require_base(edit: Edit, source: ModelSource, *, force: bool, emit: Emit) -> None:
    """Raise SaveError unless `source` is the checkpoint that the edit was made of.

    force: say what it risks and go on.
    """
    if edit.base is None:
        differs = "the edit does not say of which checkpoint it was made"
    elif edit.base.index is None and not edit.base.tells_contents(source):
        differs = f"the edit, an old file, says nothing that could be compared of {edit.base.model}"
    elif found := edit.base.differences(source):
        differs = (
            f"the edit was made of {edit.base.model}, from which it differs in {'; '.join(found)}"
        )
    else:
        if not edit.base.tells_contents(source):
            emit(
                Note(
                    f"names and shapes are those of {edit.base.model}; contents could not be compared, "
                    "because the edit file is an old one and only one of the two is a hub model"
                )
            )
        return
    if not force:
        raise SaveError(
            f"{source.name} is not the checkpoint that the edit was made of: {differs}; give that one, or "
            "--force to apply it all the same"
        )
    emit(
        Note(
            f"going on with --force although {differs}: the direction was found in other weights, and may "
            "take away something else, or nothing"
        )
    )


def plan_for(
    edit: Edit,
    source: ModelSource,
    *,
    form: Form = "same",
    declared: tuple[str, ...] = (),
    trust_remote_code: bool = False,
) -> Plan:
    """What applying `edit` to the folder of `source` changes; reads headers only. Raises ExciseError."""
    return make_plan(
        source.name,
        open_checkpoint(source.folder),
        edit,
        form=form,
        declared=declared,
        trust_remote_code=trust_remote_code,
    )


def apply_edit(
    plan: Plan,
    source: ModelSource,
    destination: Path,
    figures: str,
    emit: Emit,
    extra: Mapping[str, str] | None = None,
    known: Reproduction | None = None,
) -> None:
    """Write the edited checkpoint to the new folder `destination`. Raises SaveError or ModelError.

    figures: what is known of the edit, for the card. extra: further files, by name. known: what the edit
    was made from, for a `reproduce.json`; without it there is none.
    """
    emit(StageStarted("save", f"Writing the edited model to {destination}"))
    for text in _of_the_folder(plan):
        emit(Note(text))
    card = model_card(source, plan.edit, figures, adapter=False, recorded=known is not None)
    texts = {"README.md": card, **(extra or {})}

    def record(folder: Path) -> Mapping[str, str]:
        return {} if known is None else {NAME: model_record(known, plan, folder).text()}

    kept = write_checkpoint(plan, source.digest, destination, texts, _progress(emit), record)
    _emit_saved(plan, destination, kept, emit)


def apply_to_gguf(
    edit: Edit, source: ModelSource, destination: Path, declared: tuple[str, ...], emit: Emit
) -> None:
    """Write the edited GGUF file of `source` to the new file `destination`. Raises ExciseError."""
    assert source.gguf is not None
    if destination.suffix.lower() != ".gguf":
        raise SaveError(
            f"{destination}: of a GGUF file comes a GGUF file, so its name ends in .gguf; a folder is what "
            "excise export RUN --save DIR makes of it"
        )
    plan = make_gguf_plan(source.folder / source.gguf, edit, declared)
    emit(StageStarted("save", f"Writing the edited model to {destination}"))
    changed = Counter(
        (one.entry.dtype, one.output.dtype)
        for one in plan.rewrites.values()
        if one.entry.dtype != one.output.dtype
    )
    for (before, after), count in changed.items():
        emit(
            Note(
                f"{before} cannot be written: {count} tensors become {after}, the nearest larger type; the "
                f"weights take {plan.size:,} bytes in all"
            )
        )
    kept = write_gguf(plan, destination, _progress(emit))
    _emit_saved(plan, destination, kept, emit)


def _of_the_folder(plan: Plan) -> Iterator[str]:
    """What to say of files and tensors that the copy lacks, or that the edit does not reach."""
    checkpoint = plan.checkpoint
    for left, reason in (
        (checkpoint.left_out, "it holds the weights once more, unedited"),
        (
            checkpoint.unread,
            "it may hold the weights once more, unedited, and is not looked into",
        ),
        (checkpoint.linked, "it is a link to a folder"),
    ):
        if left:
            yield f"left out, because {reason}: {', '.join(map(str, left))}"
    for file in checkpoint.companion_weights:
        edited = plan.companion_weights.get(file.path)
        what = (
            f"edited in {len(edited)} tensors, which are the model's too; what else it holds is copied"
            if edited
            else "copied as it is: its tensors are not the model's, and the edit does not reach them"
        )
        yield f"{plan.name_of(file)}: {what}"
    if absent := checkpoint.absent_code:
        yield (
            f"config.json names Python files of the model's own that are not here ({', '.join(absent)}); "
            "with --trust-remote-code they are downloaded and go along"
        )
    if drafts := checkpoint.drafts:
        yield (
            f"the draft head ({len(drafts)} tensors, such as {drafts[0]}) is copied as it is: it proposes "
            "tokens as for the unedited model, of which fewer may be taken; answers stay right"
        )


def _emit_saved(plan: Plan, destination: Path, kept: Kept, emit: Emit) -> None:
    edited = len(plan.rewrites)
    untouched = len(plan.checkpoint.tensors) - len(plan.changes) - len(plan.dropped)
    emit(Verified(edited, untouched, kept.share))
    emit(Saved("model", str(destination)))


def _progress(emit: Emit) -> Progress:
    """Progress as events, a few for each stage."""
    told = {"write": 0.0, "verify": 0.0}

    def progress(stage: str, done: int, total: int) -> None:
        done = min(done, total)  # Headers of files are no numbers.
        share = done / total if total else 1.0
        if share >= told[stage] + _STEP or (done >= total and told[stage] < 1.0):
            told[stage] = 1.0 if done >= total else share
            emit(Streamed(stage, done, total))

    return progress
