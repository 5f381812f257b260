"""Prompts and prompt sets as values, made from strings, chat messages or conversations in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from excise.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """A user message, with an optional system prompt.

    earlier: role and text of the turns before it, without the system prompt.
    """

    text: str
    system_prompt: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """Prompts with their origin."""

    name: str
    """The purpose of the set, such as `target train`."""
    prompts: tuple[Prompt, ...]
    origin: str
    """For people: file or data set, split, and changes."""
    revision: str | None = None
    """The commit of a hub data set; None for other sources."""

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]


ChatMessage = Mapping[str, str]
"""What transformers calls a message: {"role": "user", "content": "…"}."""
PromptLike = str | Prompt | ChatMessage | Sequence[ChatMessage]

_ORIGIN = "given in memory"


def prompt_set(
    given: PromptSet | Sequence[PromptLike], name: str, system_prompt: str | None = None
) -> PromptSet:
    """A prompt set of the given prompts. name: what it is for; system_prompt: where a prompt has none of its
    own.

    Raises PromptError, naming the prompt by its number, if one is none.
    """
    if isinstance(given, PromptSet):
        return PromptSet(name, given.prompts, given.origin, given.revision)
    if isinstance(given, str | Mapping):
        raise PromptError(f"{name}: a single prompt is not a set; give a list of prompts")
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
    messages = given if isinstance(given, Sequence) else [given]
    turns = [_turn(message, where) for message in messages]
    if turns and turns[0][0] == "system":
        system_prompt = turns.pop(0)[1]
    if not turns or turns[-1][0] != "user":
        raise PromptError(f"{where}: a conversation has to end with a message of the user")
    return Prompt(turns[-1][1], system_prompt, tuple(turns[:-1]))


def _turn(message: object, where: str) -> tuple[str, str]:
    if isinstance(message, Mapping) and {"role", "content"} <= set(message):
        role, content = message["role"], message["content"]
        if isinstance(role, str) and isinstance(content, str):
            return role, content
    raise PromptError(
        f"{where}: {message!r:.60} is not a prompt; give a string, or chat messages with a role and a "
        "content of text"
    )
