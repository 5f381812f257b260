"""What a search measures of each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from excise.engine.prefill import Tokens
from excise.experiment.evidence import PartPrompts, Reach, needs_of, reaches
from excise.experiment.runner import Runner
from excise.judges.keywords import KeywordJudge
from excise.scorers.answers import RefusalScorer
from excise.scorers.scorer import Answers, BoundedScorer, PromptKind, Scorer
from excise.search.objective import Objective


@dataclass(frozen=True)
class Plan:
    """What is measured of each candidate.

    scorers: of the objectives, in order. answers: the original model's answers, for comparisons along them.
    seed: of intervals. detailed: whether to make scores, with intervals, of all scorers.
    """

    runner: Runner
    prompts: PartPrompts
    scorers: tuple[Scorer, ...]
    answers: Mapping[PromptKind, Sequence[Tokens]] = field(default_factory=dict)
    seed: int = 0
    detailed: bool = False

    @cached_property
    def reaches(self) -> dict[PromptKind, Reach]:
        """How far answers to each kind of prompts are decoded."""
        return reaches(needs_of(self.scorers), self.runner.max_new_tokens)

    @cached_property
    def objectives(self) -> dict[str, Objective]:
        """The objective of each scorer, by name."""
        return {scorer.name: Objective.of(scorer) for scorer in self.scorers}

    @cached_property
    def counted(self) -> str | None:
        """The name of the objective whose refusals requests count while they decode."""
        for scorer in self.scorers:
            if (
                isinstance(scorer, RefusalScorer)
                and scorer.prompts == "target"
                and isinstance(scorer.judge, KeywordJudge)
                and scorer.judge.markers == self.runner.judge.markers
            ):
                return scorer.name
        return None

    @cached_property
    def follows_answers(self) -> bool:
        """True if other bounds than the counted refusals become better while answers end."""
        return any(
            isinstance(scorer, BoundedScorer) and needs_answers(scorer)
            for scorer in self.scorers
            if scorer.name != self.counted
        )


def needs_answers(scorer: Scorer) -> bool:
    """True if the scorer needs answers of the edited model."""
    return any(isinstance(need, Answers) for need in scorer.needs)
