"""What was asked of the hub, and the causes for which it may not have come to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from huggingface_hub import constants

RETRY_HINT = "the same command goes on from there"
Cause = Literal[
    "repository", "revision", "gated", "token", "disk", "offline", "unreachable", "limit", "other"
]
OUT_OF_REACH: frozenset[Cause] = frozenset(("offline", "unreachable", "limit"))
"""Causes that another try may not meet: what is cached serves until then."""


@dataclass(frozen=True)
class Request:
    """What was asked of the hub.

    name: of the repository. writes: whether it was to be changed. stage: what was being done, such as
    "while uploading model.safetensors". token: one that was typed.
    """

    name: str
    kind: Literal["model", "data set"] = "model"
    revision: str | None = None
    writes: bool = False
    stage: str = ""
    token: str = ""

    @property
    def page(self) -> str:
        """Where people see the repository."""
        below = "datasets/" if self.kind == "data set" else ""
        return f"{constants.ENDPOINT}/{below}{self.name}"
