"""Figures by group of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.experiment.baseline import Part
from excise.experiment.figures import Original
from excise.prompts.sets import PromptSet
from excise.prompts.splits import Prompts
from excise.scorers.groups import FiguresByGroup, GroupFigures, Groups
from excise.scorers.scorer import Score


def groups_of(prompts: PromptSet) -> Groups:
    """The groups of a prompt set."""
    return Groups.of([prompt.group for prompt in prompts])


def search_groups(
    prompts: Prompts, original: Part, edited: Mapping[str, Score], seed: int
) -> FiguresByGroup:
    """The figures of an edit on the search prompts, as far as these scores have them."""
    return FiguresByGroup(
        groups_of(prompts.target.search).figures(
            original=original.answered.refused, edited=_refused(edited, "refusals")
        ),
        _of_control(prompts.control.search, {}, edited, seed),
    )


def held_out_groups(
    prompts: Prompts, original: Original, edited: Mapping[str, Score], seed: int
) -> FiguresByGroup:
    """The figures of an edit on the held-out prompts, as far as these scores have them."""
    return FiguresByGroup(
        groups_of(prompts.target.held_out).figures(
            original=_refused(original.scores, "refusals"), edited=_refused(edited, "refusals")
        ),
        _of_control(prompts.control.held_out, original.scores, edited, seed),
    )


def _of_control(
    prompts: PromptSet, original: Mapping[str, Score], edited: Mapping[str, Score], seed: int
) -> tuple[GroupFigures, ...]:
    return groups_of(prompts).figures(
        original=_refused(original, "control_refusals"),
        edited=_refused(edited, "control_refusals"),
        kl=_details(edited, "kl"),
        answer_kl=_details(edited, "answer_kl"),
        seed=seed,
    )


def _refused(scores: Mapping[str, Score], name: str) -> list[bool] | None:
    """The verdict on each prompt."""
    found = _details(scores, name)
    return None if found is None else list(map(bool, found))


def _details(scores: Mapping[str, Score], name: str) -> Sequence[float] | None:
    """The figure of each prompt; None if the scorer was not asked."""
    return scores[name].details if name in scores else None
