"""Two checkpoints, named as users name them, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from excise.checkpoint.index import checkpoint_index, read_index
from excise.checkpoint.source import resolve
from excise.checkpoint_diff.compare import Progress, compare_tensors, no_progress
from excise.checkpoint_diff.difference import Compared, Diff
from excise.checkpoint_diff.layout import layout_of
from excise.errors import ModelError
from excise.models.meta_model import meta_model
from excise.system.paths import expanded
from excise.validation import checked


def diff(
    first: str | Path,
    second: str | Path,
    *,
    revision: str | None = None,
    writers: Sequence[str] = (),
    trust_remote_code: bool = False,
    progress: Progress = no_progress,
) -> Diff:
    """Compare two checkpoints: which tensors differ, at which rank, and which edit made the difference.

    first, second: local folders, weight files or hub ids; a hub id may end in @REVISION, else it is of
    `revision`. writers: declared writers, "PATTERN=COMPONENT". progress: called with each tensor's name,
    its number and how many tensors there are. Memory: a few pieces of one tensor.
    Raises ModelError for files that cannot be read or are packed, HubError.
    """
    writers = checked("writers", writers, tuple[str, ...])
    one, other = (open_compared(str(name), revision) for name in (first, second))
    described = other if other.source else one
    model, layout, why_not = None, {}, ""
    if described.source is None:
        why_not = f"{described.name} has no config.json, so that writers are not known"
    else:
        try:
            folder = described.source.folder
            model = meta_model(described.name, folder, trust_remote_code=trust_remote_code)
            layout = dict(layout_of(model, other.index, writers))
        except ModelError as error:
            if error.setting:
                raise
            model, why_not = None, str(error)
    found = compare_tensors(one, other, layout, progress)
    return replace(found, model=model, why_not=why_not)


def open_compared(word: str, revision: str | None = None) -> Compared:
    """A local folder, one weight file, or a hub id, which may end in @REVISION.

    Raises ModelError or HubError.
    """
    path = expanded(word)
    if path.suffix.lower() == ".gguf":
        raise ModelError(
            f"{word}: GGUF files cannot be compared; compare the checkpoints that they were made from"
        )
    if path.is_file():
        return Compared(word, None, read_index([path]))
    if path.is_dir() and not (path / "config.json").is_file():
        return Compared(word, None, checkpoint_index(path))
    name, _, own = (word, "", "") if path.exists() else word.partition("@")
    source = resolve(name, own or revision)
    return Compared(word, source, checkpoint_index(source.folder))
