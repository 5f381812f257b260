"""Figures by group of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.experiment.scores import PromptPart
from excise.prompts.splits import Prompts
from excise.scorers.groups import FiguresByGroup, Groups
from excise.scorers.scorer import Score

Details = Mapping[str, Sequence[float]]
"""One number for each prompt, by the name of the scorer."""


def details_of(scores: Mapping[str, Score]) -> Details:
    """The numbers of each prompt, of scorers that have them."""
    return {name: score.details for name, score in scores.items() if score.details}


def groups_of(prompts: Prompts, part: PromptPart) -> tuple[Groups, Groups]:
    """The groups of target and of control prompts of a part."""
    target, control = (
        Groups.of([prompt.group for prompt in getattr(parts, part)])
        for parts in (prompts.target, prompts.control)
    )
    return target, control


def figures_by_group(
    prompts: Prompts,
    part: PromptPart,
    original: Details,
    scores: Mapping[str, Score],
    seed: int,
) -> FiguresByGroup:
    """The figures of an edit for each group. original: of the original model, as far as it was measured.

    seed: of the bootstrap.
    """
    target, control = groups_of(prompts, part)
    edited = details_of(scores)
    return FiguresByGroup(
        target.figures(original=original.get("refusals"), edited=edited.get("refusals")),
        control.figures(
            original=original.get("control_refusals"),
            edited=edited.get("control_refusals"),
            kl=edited.get("kl"),
            answer_kl=edited.get("answer_kl"),
            seed=seed,
        ),
    )
