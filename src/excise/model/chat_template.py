"""Where a chat template comes from: the user's file, the tokenizer, or files made for image processors."""

from __future__ import annotations

from pathlib import Path

from excise.checkpoint.given import read_object
from excise.errors import ModelError, translated

_OF_PROCESSORS = ("chat_template.json", "processor_config.json")
_KEY = "chat_template"


def given_template(path: Path | None) -> str | None:
    """The text of the file that the user gave. Raises ModelError."""
    if path is None:
        return None
    with translated(ModelError, f"--chat-template {path}: cannot be read", OSError, ValueError):
        return path.read_text(encoding="utf-8")


def processor_template(folder: Path) -> str | None:
    """The chat template that a checkpoint keeps for its processor of images; None if there is none.

    Image-text checkpoints from before templates had a file of their own keep it there. Raises ModelError.
    """
    for name in _OF_PROCESSORS:
        path = folder / name
        if path.is_file() and isinstance(template := read_object(path).get(_KEY), str):
            return template
    return None
