"""Opens a checkpoint for comparison: a folder, a weights file or a hub model."""

from __future__ import annotations

from dataclasses import dataclass

from excise.checkpoint.index import Index, checkpoint_index, read_index
from excise.checkpoint.source import ModelSource, resolve
from excise.errors import ModelError
from excise.system.paths import expanded


@dataclass(frozen=True)
class Compared:
    """name: as the user gave it. source: None for weights without config.json."""

    name: str
    source: ModelSource | None
    index: Index


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
