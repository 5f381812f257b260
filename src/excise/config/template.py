"""Parses arguments of a chat template: KEY=VALUE, separated by commas."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from excise.system.json_files import parse_json

_WORDS: Mapping[str, JsonValue] = {"true": True, "false": False, "none": None, "null": None}
"""In any case: True in Python and Jinja, true in JSON."""
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
"""Arguments that excise itself passes to the template."""


def read_arguments(text: str) -> dict[str, JsonValue]:
    """`enable_thinking=false,reasoning_effort=low` as a mapping; also a JSON object.

    A value is true, false, none, a JSON number, a JSON string or plain text. Raises ValueError for invalid
    text.
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
    """Raise ValueError for a key that cannot be an argument of a template."""
    for key in arguments:
        if not key.isidentifier():
            raise ValueError(f"{key or 'nothing'}: not the name of a variable")
        if key in _TAKEN:
            raise ValueError(f"{key}: excise sets this argument itself")


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
