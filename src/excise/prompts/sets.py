"""Prompts and prompt sets as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload


@dataclass(frozen=True)
class Prompt:
    """A user message, with an optional system prompt.

    earlier: role and text of the turns before it, without the system prompt. group: the topic, language or
    other group that figures are shown by; prompts that differ in it alone are equal.
    """

    text: str
    system_prompt: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()
    group: str | None = field(default=None, compare=False)


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
    notes: tuple[str, ...] = ()
    """What was changed while reading it, in sentences."""

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]
