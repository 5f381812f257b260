"""Tests whether two edits of one model differ by more than chance on the same held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass

from excise.app.model import experiment_of, load_model
from excise.checkpoint.source import ModelSource
from excise.config import Settings
from excise.edits.edit import Edit
from excise.events import Emit
from excise.experiment.figures import measure_edit
from excise.prompts.splits import Prompts
from excise.scorers.scorer import PROMPTS, Score
from excise.scorers.statistics import SIGNIFICANT, mcnemar, sign_flips

_COMPARED = ("refusals", "kl", "answer_kl")
"""The figures that are compared; the other figures of a report have few prompts that differ."""


@dataclass(frozen=True)
class Difference:
    """One figure of both edits, as text. p_value: of the paired test."""

    figure: str
    first: str
    second: str
    p_value: float

    @property
    def significant(self) -> bool:
        """True if the p-value is below 5 %."""
        return self.p_value < SIGNIFICANT


def compare(
    settings: Settings, prompts: Prompts, source: ModelSource, edits: tuple[Edit, Edit], emit: Emit
) -> list[Difference]:
    """Measure both edits on the held-out prompts, and test each figure in pairs.

    Raises ExciseError for errors that the user can fix.
    """
    loaded = load_model(settings, source, emit)
    experiment = experiment_of(settings, loaded, prompts, emit)
    held_out = experiment.held_out
    scorers = [each for each in experiment.reported if each.name in _COMPARED]
    first_scores, second_scores = (
        measure_edit(experiment.runner, held_out, edit, scorers, settings.seed) for edit in edits
    )
    return [
        difference(first_scores[each.name], second_scores[each.name], settings.seed)
        for each in scorers
    ]


def difference(first: Score, second: Score, seed: int) -> Difference:
    """A figure of two edits, with a paired test of their difference."""
    if first.unit == PROMPTS:
        test = mcnemar(*(list(map(bool, each.details)) for each in (first, second)))
        return Difference(first.title, str(first), str(second), test)
    test = sign_flips(first.details, second.details, seed)
    figure = f"{first.title} ({first.unit})"
    return Difference(figure, str(first), str(second), test)
