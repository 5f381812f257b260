"""What a prompt set is, once it has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class Prompt:
    """One prompt, as the user's turn of a chat.

    earlier: role and text of the turns before it, the system prompt aside.
    """

    text: str
    system_prompt: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PromptSet(Sequence[Prompt]):
    """Prompts, and where they are from; a sequence of `Prompt`."""

    name: str
    """What the set is for: `target train`."""
    prompts: tuple[Prompt, ...]
    origin: str
    """For people: the file or data set, the split, and what was done to it."""
    revision: str | None = None
    """Commit of the hub data set that was read; None for what is no hub data set."""

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]
