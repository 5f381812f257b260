"""The one writer of edited checkpoints: streams, can be called again when killed, and reads it all again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from excise.checkpoint.folder import RECORD
from excise.checkpoint.json_files import read_object
from excise.edits.edit import Edit
from excise.errors import SaveError
from excise.rewrite.plan import Plan
from excise.rewrite.resumable_folder import ResumableFolder, partial_file, resumable_folder
from excise.rewrite.rewrite_file import Advance, rewrite_file
from excise.rewrite.verify import Kept, require_kept, same_bytes, verify_file
from excise.system.files import FurtherFiles


class Progress(Protocol):
    """Hears what is done. stage: "write" or "verify"; done, total: bytes of the weights."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called every few megabytes."""


def edit_digest(edit: Edit) -> str:
    """What tells an edit from another one."""
    digest = hashlib.sha256(json.dumps([edit.kind, edit.writers, edit.per_matrix]).encode())
    for tensor in (edit.u, edit.v, edit.strengths):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_checkpoint(
    plan: Plan,
    source_digest: str,
    destination: Path,
    texts: Mapping[str, str],
    progress: Progress,
    further: FurtherFiles | None = None,
) -> Kept:
    """Write the edited checkpoint to the new folder `destination`; returns how much of the edit packing kept.

    source_digest: of the original. texts: files to write beside it, by name; they stand in place of the
    original's. further: asked for more of them when all else is written and checked, so that the folder has
    its name only with them.
    A call that was killed is taken up where it stopped by the same call. Raises SaveError if the
    disk is too small, anything cannot be written, or what was written is not what it should be, and
    ModelError if the original turns out damaged; `destination` then does not exist.
    """
    identity = f"{source_digest} {edit_digest(plan.edit)} {plan.size}"
    with resumable_folder(destination, identity) as place:
        _require_room(destination, plan, place.folder, place.finished)
        kept = _write_weights(plan, place, progress)
        _write_others(plan, place, texts)
        if further is not None:
            _write_texts(place, further(place.folder))
        return kept


def write_gguf(plan: Plan, destination: Path, progress: Progress) -> Kept:
    """The same for a GGUF file, to the new file `destination`; a killed call is begun anew."""
    (file,) = plan.checkpoint.files
    with partial_file(destination) as path:
        _require_room(destination, plan, path.parent, frozenset())
        rewrite_file(plan, file, path, _counted("write", plan, progress))
        kept = Kept()
        verify_file(plan, file, path, kept, _counted("verify", plan, progress))
        if plan.packed is not None:
            require_kept(kept, plan.packed)
        return kept


def _counted(stage: str, plan: Plan, progress: Progress) -> Advance:
    """Adds up what is done of the plan's bytes."""
    done, total = 0, plan.size

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    return advance


def _require_room(destination: Path, plan: Plan, folder: Path, finished: frozenset[str]) -> None:
    """Raise SaveError if the disk has no room for what is still to be written."""
    needed = sum(
        output.size
        for file in plan.files
        if plan.name_of(file) not in finished
        for output, _, _ in plan.outputs(file)
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SaveError(
            f"{destination}: needs {needed:,} bytes and the disk has {free:,}; nothing was left behind"
        )


def _write_weights(plan: Plan, place: ResumableFolder, progress: Progress) -> Kept:
    """Write each file and read it again while the system still has both at hand; finished ones are read."""
    written, verified = (_counted(stage, plan, progress) for stage in ("write", "verify"))
    kept = Kept()
    for file in plan.files:
        name = plan.name_of(file)
        if name in place.finished:
            written(file.size)
            verify_file(plan, file, place.folder / name, kept, verified)
            continue
        with place.file(name) as path:
            rewrite_file(plan, file, path, written)
            verify_file(plan, file, path, kept, verified)
    if plan.packed is not None:
        require_kept(kept, plan.packed)
    return kept


def _write_others(plan: Plan, place: ResumableFolder, texts: Mapping[str, str]) -> None:
    for name in place.finished - {plan.name_of(file) for file in plan.files}:
        # Of a killed call, which may have been to write further files; what is small is written anew.
        (place.folder / name).unlink()
    for original, name in _copies(plan, texts):
        with place.file(name) as path:
            shutil.copyfile(original, path)
            if not same_bytes(original, path):
                raise SaveError(f"{name}: is not what was copied; the disk may be faulty")
    _write_texts(place, _texts(plan, texts))


def _write_texts(place: ResumableFolder, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        with place.file(name) as path:
            path.write_text(text, encoding="utf-8")


def _copies(plan: Plan, texts: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Files that are copied as they are: where from, and under which name."""
    made = _texts(plan, texts)
    written = {plan.name_of(file) for file in plan.files}
    copies = [
        (plan.checkpoint.folder / one, one.as_posix())
        for one in plan.checkpoint.others
        if one.as_posix() not in written
    ]
    if plan.checkpoint.index is not None:
        copies.append((plan.checkpoint.folder / plan.checkpoint.index, plan.checkpoint.index))
    # A record of the original's making would be taken for one of the copy's.
    return [(path, name) for path, name in copies if name not in made and name != RECORD]


def _texts(plan: Plan, texts: Mapping[str, str]) -> dict[str, str]:
    """Files that are written anew: the caller's, the configuration and the index if they change."""
    made = dict(texts)
    checkpoint = plan.checkpoint
    if plan.config is not None:
        made["config.json"] = json.dumps(plan.config, indent=2) + "\n"
        if checkpoint.index is not None:
            index = read_object(checkpoint.folder / checkpoint.index)
            renamed = {one.entry.name: one.output.name for one in plan.rewrites.values()}
            index["weight_map"] = {
                renamed.get(name, name): file
                for name, file in index["weight_map"].items()
                if name not in plan.dropped
            }
            index["metadata"] = {
                **(index.get("metadata") or {}),
                "total_size": plan.size_of(checkpoint.files),
            }
            made[checkpoint.index] = json.dumps(index, indent=2) + "\n"
    return made
