"""A request to the hub, and the causes of its failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from huggingface_hub import constants

RETRY_HINT = "the same command resumes"
Cause = Literal[
    "repository", "revision", "gated", "token", "disk", "offline", "unreachable", "limit", "other"
]
OUT_OF_REACH: frozenset[Cause] = frozenset(("offline", "unreachable", "limit"))
"""Temporary causes, for which cached files are used."""


@dataclass(frozen=True)
class HubRequest:
    """A request to the hub.

    name: of the repository. writes: whether the request changes it. stage: the current step, such as
    "uploading model.safetensors". token: a token that the user typed.
    """

    name: str
    kind: Literal["model", "data set"] = "model"
    revision: str | None = None
    writes: bool = False
    stage: str = ""
    token: str = ""

    @property
    def page(self) -> str:
        """The repository's web page."""
        below = "datasets/" if self.kind == "data set" else ""
        return f"{constants.ENDPOINT}/{below}{self.name}"
