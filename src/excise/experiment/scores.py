"""The measured figures of an original or edited model, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from excise.engine.capture import EndStatistics
from excise.scorers.groups import UNGROUPED, FiguresByGroup
from excise.scorers.scorer import Score
from excise.scorers.statistics import Estimate, Share

PromptPart = Literal["search", "held_out"]
"""The prompts that the search uses, or prompts that neither directions nor search use."""


@dataclass(frozen=True)
class Baseline:
    """The original model on the target prompts of the search.

    refused: the verdict on each prompt. answers: up to where each verdict is certain.
    """

    refusals: Share
    refused: tuple[bool, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the writers' outputs at the last token of the train prompts.

    writers: module names, in the order of the rows. target, control: means [writer, d] and spreads [writer],
    float64, of the writers' own outputs. The difference of the means is δ of the discriminant.
    """

    writers: tuple[str, ...]
    target: EndStatistics
    control: EndStatistics


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, Score]):
    """The scores of an edit on one part of the prompts: a mapping from the names of scorers.

    The properties are short forms for scorers of excise. They raise KeyError, or are None, if the scorer was
    not asked. groups: the figures of each group of prompts; none if prompts have no groups.
    """

    on: PromptPart
    by_name: Mapping[str, Score]
    groups: FiguresByGroup = UNGROUPED

    def __getitem__(self, name: str) -> Score:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def refusals(self) -> Share:
        """The refused target prompts."""
        return self["refusals"].share

    @property
    def refused(self) -> tuple[bool, ...]:
        """The verdict on each target prompt."""
        return tuple(map(bool, self["refusals"].details))

    @property
    def kl(self) -> Estimate:
        """KL(original ‖ edited) of the first answer token, nats, mean over control prompts."""
        return self["kl"].estimate

    @property
    def divergences(self) -> tuple[float, ...]:
        """That KL for each control prompt."""
        return self["kl"].details

    @property
    def control_refusals(self) -> Share | None:
        """The refused control prompts."""
        return self["control_refusals"].share if "control_refusals" in self else None

    @property
    def answer_kl(self) -> Estimate | None:
        """KL along the original model's answers to control prompts, nats, mean over tokens and prompts."""
        return self["answer_kl"].estimate if "answer_kl" in self else None

    @property
    def empty(self) -> int | None:
        """The number of all answers that are empty."""
        return round(self["empty"].value) if "empty" in self else None

    @property
    def looping(self) -> int | None:
        """The number of all answers that repeat themselves."""
        return round(self["looping"].value) if "looping" in self else None
