"""Tests whether two edits of one model differ by more than chance on the same held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass

from excise.app.model import experiment_of, load_model
from excise.checkpoint.source import ModelSource
from excise.config import Settings
from excise.edits.edit import Edit
from excise.events import Emit
from excise.experiment.figures import Measured, measure_edit
from excise.prompts.splits import Prompts
from excise.scorers.divergence import AnswerTokens
from excise.scorers.statistics import SIGNIFICANT, Share, bootstrap, mcnemar, sign_flips


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

    Raises ExciseError for whatever the user can mend.
    """
    loaded = load_model(settings, source, emit)
    experiment = experiment_of(settings, loaded, prompts, emit)
    held_out = experiment.held_out
    measured = [measure_edit(experiment.runner, held_out, edit) for edit in edits]
    return differences(*measured, tokens=held_out.answer_tokens, seed=settings.seed)


def differences(
    first: Measured, second: Measured, *, tokens: AnswerTokens, seed: int
) -> list[Difference]:
    """Each figure of two edits, with a paired test of their difference.

    tokens: the answer tokens over which KL was averaged.
    """

    def mean(figure: str, one: tuple[float, ...], other: tuple[float, ...]) -> Difference:
        first, second = (str(bootstrap(values, seed)) for values in (one, other))
        return Difference(figure, first, second, sign_flips(one, other, seed))

    return [
        Difference(
            "target prompts refused",
            str(Share(sum(first.refused), len(first.refused))),
            str(Share(sum(second.refused), len(second.refused))),
            mcnemar(first.refused, second.refused),
        ),
        mean("KL, first answer token (nats)", first.divergences, second.divergences),
        mean(f"{tokens.title} (nats)", first.answer_divergences, second.answer_divergences),
    ]
