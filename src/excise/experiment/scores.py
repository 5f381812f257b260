"""What is measured of a model, original or edited, as values with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from excise.engine.capture import EndStatistics
from excise.experiment.figures import HeldOut, Measured
from excise.scorers.divergence import AnswerTokens
from excise.scorers.groups import UNGROUPED, FiguresByGroup
from excise.scorers.statistics import Estimate, Share, bootstrap
from excise.search.scoring import Scored

PromptPart = Literal["search", "held_out"]
"""The prompts that the search sees, or those that nothing is fitted to."""


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
    """What writers put out at the last token of the train prompts.

    writers: module names, in the order of the rows. target, control: means [writer, d] and spreads [writer],
    float64, of the writers' own outputs. The difference of the means is δ of the discriminant.
    """

    writers: tuple[str, ...]
    target: EndStatistics
    control: EndStatistics


@dataclass(frozen=True)
class Scores:
    """An edit on one part of the prompts.

    refusals: of target prompts; refused: the verdict on each. kl: KL(original ‖ edited) of the first answer
    token, nats, mean over control prompts; divergences: of each of them.

    Measured on held-out prompts only, else None: control_refusals: of control prompts. answer_kl: KL along
    the original model's answers to control prompts, mean over the first `answer_tokens` tokens. empty,
    looping: how many of all answers say nothing, or repeat themselves.

    groups: the figures of each group of prompts, if prompts have groups.
    """

    on: PromptPart
    refusals: Share
    kl: Estimate
    refused: tuple[bool, ...]
    divergences: tuple[float, ...]
    control_refusals: Share | None = None
    answer_kl: Estimate | None = None
    answer_tokens: AnswerTokens | None = None
    empty: int | None = None
    looping: int | None = None
    groups: FiguresByGroup = UNGROUPED


def search_scores(scored: Scored, groups: FiguresByGroup, seed: int) -> Scores:
    """Scores of an edit for which every verdict was waited for."""
    assert scored.answered is not None
    return Scores(
        "search",
        Share(scored.answered.count, len(scored.answered)),
        bootstrap(scored.divergences, seed),
        scored.answered.refused,
        scored.divergences,
        groups=groups,
    )


def held_out_scores(
    measured: Measured, held_out: HeldOut, groups: FiguresByGroup, seed: int
) -> Scores:
    """Scores of an edit beside the original model."""
    answered = measured.answered
    return Scores(
        "held_out",
        Share(answered.refusals, len(held_out.target)),
        bootstrap(measured.divergences, seed),
        measured.refused,
        measured.divergences,
        control_refusals=Share(answered.control_refusals, len(held_out.control)),
        answer_kl=bootstrap(measured.answer_divergences, seed),
        answer_tokens=held_out.answer_tokens,
        empty=answered.empty,
        looping=answered.looping,
        groups=groups,
    )
