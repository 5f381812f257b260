"""Files that a tokenizer is made from: which one is not what it should be."""

from __future__ import annotations

from pathlib import Path

from excise.checkpoint.json_files import read_object
from excise.errors import ModelError
from excise.system.lfs import require_fetched

_OBJECTS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TEMPLATE = "chat_template.jinja"
_WHOLE = "tokenizer.json"
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.*", "merges.txt", "tekken.json")
"""What a tokenizer is made from where there is no `tokenizer.json`."""


def require_fetched_tokenizer(folder: Path) -> None:
    """Raise ModelError if a file that the tokenizer is made from is a Git LFS pointer.

    Some of them would be read as the vocabulary that they stand for.
    """
    paths = [folder / name for name in (*_OBJECTS, _TEMPLATE)]
    if not (folder / _WHOLE).exists():
        paths += sorted(path for pattern in _VOCABULARIES for path in folder.glob(pattern))
    for path in paths:
        if path.exists():
            require_fetched(path, ModelError)


def require_json_files(folder: Path) -> None:
    """Raise ModelError that names the file among a tokenizer's that is no JSON object, if one is not."""
    for name in _OBJECTS:
        if (folder / name).exists():
            read_object(folder / name)
