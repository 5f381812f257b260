"""Prompts in memory: strings, chat messages, conversations, and rows of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.errors import PromptError
from excise.prompts.columns import Columns
from excise.prompts.conversation import is_message, prompt_of_turns, turns_of
from excise.prompts.rows import Rows
from excise.prompts.sets import Prompt, PromptSet

ChatMessage = Mapping[str, Any]
"""What transformers calls a message: {"role": "user", "content": "…"}."""
PromptLike = str | Prompt | ChatMessage | Sequence[ChatMessage]

_ORIGIN = "given in memory"


def prompt_set(
    given: PromptSet | Sequence[PromptLike],
    name: str,
    system_prompt: str | None = None,
    group_by: str | None = None,
) -> PromptSet:
    """A prompt set of the given prompts. name: what it is for; system_prompt: where a prompt has none of its
    own. group_by: the key of rows whose value is the group.

    Raises PromptError, naming the prompt by its number, if one is none.
    """
    if isinstance(given, PromptSet):
        return PromptSet(name, given.prompts, given.origin, given.revision, given.notes)
    if isinstance(given, str | Mapping):
        raise PromptError(f"{name}: a single prompt is not a set; give a list of prompts")
    rows = [one for one in given if isinstance(one, Mapping) and not is_message(one)]
    if rows and len(rows) == len(given):
        places = [f"{name}, row {number}" for number in range(1, len(rows) + 1)]
        table = Rows.of(rows, Columns(group_by=group_by), places)
        found, notes = table.prompts(range(1, len(rows) + 1), name, system_prompt)
        return PromptSet(name, tuple(found), _ORIGIN, notes=tuple(notes))
    prompts = tuple(
        prompt_of(one, f"{name}, prompt {number}", system_prompt)
        for number, one in enumerate(given)
    )
    return PromptSet(name, prompts, _ORIGIN)


def prompt_of(given: PromptLike, where: str, system_prompt: str | None = None) -> Prompt:
    """The prompt that a string, a message or a conversation stands for. Raises PromptError."""
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(given, system_prompt)
    return prompt_of_turns(turns_of(given, where), where, system_prompt)
