"""Checks of the files that a tokenizer is built from."""

from __future__ import annotations

from pathlib import Path

from excise.errors import ModelError
from excise.system.files import require_fetched
from excise.system.json_files import read_json_object

_OBJECTS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TEMPLATE = "chat_template.jinja"
_WHOLE = "tokenizer.json"
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.*", "merges.txt", "tekken.json")
"""Files of a tokenizer without `tokenizer.json`."""


def require_fetched_tokenizer(folder: Path) -> None:
    """Raise ModelError if a file of the tokenizer is a Git LFS pointer.

    transformers would read some pointers as a vocabulary.
    """
    paths = [folder / name for name in (*_OBJECTS, _TEMPLATE)]
    if not (folder / _WHOLE).exists():
        paths += sorted(path for pattern in _VOCABULARIES for path in folder.glob(pattern))
    for path in paths:
        if path.exists():
            require_fetched(path, ModelError)


def require_json_files(folder: Path) -> None:
    """Raise ModelError for the first of the tokenizer's JSON files that is damaged."""
    for name in _OBJECTS:
        if (folder / name).exists():
            read_json_object(folder / name, ModelError)
