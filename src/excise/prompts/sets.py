"""What a prompt set is, once it has been read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One prompt, as the user's turn of a chat."""

    text: str
    system_prompt: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and where they are from."""

    name: str
    """What the set is for: `target train`."""
    prompts: tuple[Prompt, ...]
    origin: str
    """For people: the file or data set, the split, and what was done to it."""
    revision: str | None = None
    """Commit of the hub data set that was read; None for what is no hub data set."""

    def __len__(self) -> int:
        return len(self.prompts)
