"""Arguments of a chat template as people write them: KEY=VALUE, separated by commas."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from excise.system.json_files import parse_json

_WORDS: Mapping[str, JsonValue] = {"true": True, "false": False, "none": None, "null": None}
"""Written in any case: Python and Jinja say True, JSON says true."""
_TAKEN = frozenset(
    (
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "self",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    )
)
"""Arguments that say how the template is called; excise decides them."""


def read_arguments(text: str) -> dict[str, JsonValue]:
    """`enable_thinking=false,reasoning_effort=low` as a mapping; also a JSON object.

    A value is true, false, none, a JSON number or text in quotes, or else a text as it stands. Raises
    ValueError if a part is no KEY=VALUE or the text is no JSON object.
    """
    if text.lstrip().startswith("{"):
        found = parse_json(text)
        assert isinstance(found, dict)  # it begins with a brace
        return found
    arguments: dict[str, JsonValue] = {}
    for part in text.split(","):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise ValueError(f"{part.strip() or 'nothing'}: not KEY=VALUE")
        if key in arguments:
            raise ValueError(f"{key}: given twice")
        arguments[key] = _value(value)
    return arguments


def as_text(arguments: Mapping[str, object]) -> str:
    """The arguments as `read_arguments` reads them: `enable_thinking=false, reasoning_effort="low"`."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())


def require_arguments(arguments: Mapping[str, JsonValue]) -> None:
    """Raise ValueError for a key that a template cannot be given."""
    for key in arguments:
        if not key.isidentifier():
            raise ValueError(f"{key or 'nothing'}: not the name of a variable")
        if key in _TAKEN:
            raise ValueError(f"{key}: not an argument that can be chosen")


def _value(text: str) -> JsonValue:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if not text or text[0] not in '"-0123456789':
        return text
    try:
        value: JsonValue = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value
