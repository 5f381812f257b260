"""Conversations as lists of chat messages: the turns of one, and the prompt that it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.errors import PromptError
from excise.prompts.sets import Prompt

_ROLES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard"), "assistant"),
}
"""Roles by the names that ShareGPT data sets have for them; other names are roles themselves."""
_KEYS = (("role", "content"), ("from", "value"))
"""Keys of role and text: of transformers, and of ShareGPT data sets."""

Turn = tuple[str, str]
"""Role and text."""


def is_message(value: Mapping[str, object]) -> bool:
    """True if a mapping is a chat message, not a row of a table."""
    return any(role in value and text in value for role, text in _KEYS)


def turns_of(given: object, where: str) -> list[Turn]:
    """The turns of a message or a list of messages.

    The text of a message is a string or a list of text parts. Raises PromptError for anything else.
    """
    messages = given if isinstance(given, Sequence) else [given]
    return [
        _turn(message, where if len(messages) == 1 else f"{where}, message {number}")
        for number, message in enumerate(messages, 1)
    ]


def prompt_of_turns(turns: Sequence[Turn], where: str, system_prompt: str | None) -> Prompt:
    """The prompt of a conversation that ends with a turn of the user. system_prompt: if it has none."""
    if turns and turns[0][0] == "system":
        system_prompt, turns = turns[0][1], turns[1:]
    if not turns or turns[-1][0] != "user":
        last = f"; this one ends with {turns[-1][0]}" if turns else ""
        raise PromptError(f"{where}: a conversation has to end with a message of the user{last}")
    return Prompt(turns[-1][1], system_prompt, tuple(turns[:-1]))


def _turn(message: object, where: str) -> Turn:
    if isinstance(message, Mapping):
        for role_key, text_key in _KEYS:
            role, text = message.get(role_key), _text(message.get(text_key))
            if isinstance(role, str) and text is not None:
                return _ROLES.get(role, role), text
    raise PromptError(
        f"{where}: {message!r:.60} is not a prompt; give a string, or chat messages with a role and a "
        "content of text"
    )


def _text(content: object) -> str | None:
    """The text of a message's content; None if it holds something else than text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        return None
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None
