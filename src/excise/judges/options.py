"""How a judge that is named by text is set up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from excise.judges.verdict import Outcome
from excise.models.options import LoadOptions


@dataclass(frozen=True)
class JudgeOptions:
    """How `judge_of` sets up a judge. Each kind of judge uses the fields that concern it.

    markers: phrases of a refusal for `keywords`; None for the built-in phrases. labels: a classifier's labels
    and their outcomes; needed for classifiers whose labels are unknown. loading: how a classifier or a chat
    model is loaded; code that comes with a model never runs. batch_size: answers that a model judges at a
    time. cache: the folder in which verdicts of chat models are kept; None keeps nothing. concurrency:
    requests to a server at a time. timeout: seconds to wait for one answer of a server. key: the environment
    variable that holds the server's key.
    """

    markers: tuple[str, ...] | None = None
    labels: Mapping[str, Outcome] = field(default_factory=dict)
    loading: LoadOptions = field(default_factory=LoadOptions)
    batch_size: int = 16
    cache: Path | None = None
    concurrency: int = 8
    timeout: float = 120.0
    key: str = "OPENAI_API_KEY"
