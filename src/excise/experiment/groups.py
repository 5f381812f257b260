"""Figures by group of prompts."""

from __future__ import annotations

from excise.experiment.baseline import Part
from excise.experiment.figures import HeldOut, Measured
from excise.prompts.sets import PromptSet
from excise.prompts.splits import Prompts
from excise.scorers.groups import FiguresByGroup, Groups
from excise.search.scoring import Scored


def groups_of(prompts: PromptSet) -> Groups:
    """The groups of a prompt set."""
    return Groups.of([prompt.group for prompt in prompts])


def search_groups(prompts: Prompts, original: Part, scored: Scored, seed: int) -> FiguresByGroup:
    """The figures of an edit for which every verdict was waited for, on the search prompts."""
    assert scored.answered is not None
    return FiguresByGroup(
        groups_of(prompts.target.search).figures(
            original=original.answered.refused, edited=scored.answered.refused
        ),
        groups_of(prompts.control.search).figures(kl=scored.divergences, seed=seed),
    )


def held_out_groups(
    prompts: Prompts, original: HeldOut, measured: Measured, seed: int
) -> FiguresByGroup:
    """The figures of an edit on the held-out prompts."""
    return FiguresByGroup(
        groups_of(prompts.target.held_out).figures(
            original=original.to_target.refused, edited=measured.refused
        ),
        groups_of(prompts.control.held_out).figures(
            original=original.to_control.refused,
            edited=measured.control_refused,
            kl=measured.divergences,
            answer_kl=measured.answer_divergences,
            seed=seed,
        ),
    )
