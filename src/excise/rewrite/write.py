"""Writes edited checkpoints: streams, resumes after interruption, and verifies every file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from excise.checkpoint.folder import RECORD
from excise.edits.edit import Edit
from excise.errors import ModelError, SaveError
from excise.rewrite.plan import Plan
from excise.rewrite.resumable_folder import ResumableFolder, partial_file, resumable_folder
from excise.rewrite.rewrite_file import Advance, rewrite_file
from excise.rewrite.verify import Kept, require_kept, same_bytes, verify_file
from excise.system.files import FurtherFiles
from excise.system.json_files import read_json_object


class Progress(Protocol):
    """Receives progress. stage: "write" or "verify"; done, total: bytes of the weights."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called every few megabytes."""


def edit_digest(edit: Edit) -> str:
    """A hash of an edit, 16 hexadecimal digits."""
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
    """Write the edited checkpoint to the new folder `destination`; returns how much of the edit survived.

    source_digest: of the original. texts: further text files by name, which replace the original's. further:
    called at the end for more text files, before the folder gets its name. An interrupted call is resumed by
    the same call. Raises SaveError if the disk is full, if writing or verification fails, and ModelError for
    a damaged original; `destination` then does not exist.
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
    """Write the edited GGUF file `destination`; an interrupted call starts from the beginning."""
    (file,) = plan.checkpoint.files
    with partial_file(destination) as path:
        _require_room(destination, plan, path.parent, frozenset())
        rewrite_file(plan, file, path, _counted("write", plan, progress))
        kept = Kept()
        verify_file(plan, file, path, kept, _counted("verify", plan, progress))
        require_kept(kept, plan.packed)
        return kept


def _counted(stage: str, plan: Plan, progress: Progress) -> Advance:
    done, total = 0, plan.size

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    return advance


def _require_room(destination: Path, plan: Plan, folder: Path, finished: frozenset[str]) -> None:
    needed = plan.size_of(file for file in plan.files if plan.name_of(file) not in finished)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SaveError(
            f"{destination}: needs {needed:,} bytes and the disk has {free:,}; nothing was left behind"
        )


def _write_weights(plan: Plan, place: ResumableFolder, progress: Progress) -> Kept:
    """Write and verify each file, while both are in the system's cache; verify finished files."""
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
    require_kept(kept, plan.packed)
    return kept


def _write_others(plan: Plan, place: ResumableFolder, texts: Mapping[str, str]) -> None:
    written = {plan.name_of(file) for file in plan.files}
    for name in place.finished - written:
        # Small files of an interrupted call are written again.
        (place.folder / name).unlink()
    made = _texts(plan, texts)
    checkpoint = plan.checkpoint
    copied = [one.as_posix() for one in checkpoint.companions.copied]
    copied += [] if checkpoint.index is None else [checkpoint.index]
    for name in copied:
        # The original's reproduction record does not describe the edited checkpoint.
        if name in made or name in written or name == RECORD:
            continue
        with place.file(name) as path:
            shutil.copyfile(checkpoint.folder / name, path)
            if not same_bytes(checkpoint.folder / name, path):
                raise SaveError(
                    f"{name}: differs from the original after copying; the disk may be faulty"
                )
    _write_texts(place, made)


def _write_texts(place: ResumableFolder, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        with place.file(name) as path:
            path.write_text(text, encoding="utf-8")


def _texts(plan: Plan, texts: Mapping[str, str]) -> dict[str, str]:
    """Text files to write: `texts`, and the configuration and index if they change."""
    if plan.config is None:
        return dict(texts)
    changed: dict[str, object] = {"config.json": plan.config}
    checkpoint = plan.checkpoint
    if checkpoint.index is not None:
        index = read_json_object(checkpoint.folder / checkpoint.index, ModelError)
        renamed = {one.entry.name: one.output.name for one in plan.rewrites.values()}
        weight_map = {
            renamed.get(name, name): file
            for name, file in index["weight_map"].items()
            if name not in plan.dropped
        }
        total = {"total_size": plan.size_of(checkpoint.files)}
        metadata = (index.get("metadata") or {}) | total
        changed[checkpoint.index] = index | {"weight_map": weight_map, "metadata": metadata}
    return {**texts, **{name: json.dumps(one, indent=2) + "\n" for name, one in changed.items()}}
