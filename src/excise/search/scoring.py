"""The interface between search and scoring: edits with their bounds go in, scores come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from excise.edits.edit import Edit
from excise.errors import TrialError
from excise.scorers.refusals import Refusals
from excise.scorers.scorer import Score
from excise.search.front import Point


@dataclass(frozen=True)
class Scored:
    """An edit's figures on the search prompts.

    values: of each objective. dominated: an earlier trial is at least as good in all objectives; values are
    then bounds. answered: verdicts on target prompts; None if none were asked, for example because KL alone
    rules the edit out. scores: with intervals, if they were asked for.
    """

    values: Mapping[str, float]
    dominated: bool
    answered: Refusals | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def refusals(self) -> int:
        """Certain refusals. Raises KeyError if they are no objective."""
        return round(self.values["refusals"])

    @property
    def kl(self) -> float:
        """KL of the first answer token, nats. Raises KeyError if it is no objective."""
        return self.values["kl"]


@dataclass(frozen=True)
class Bound:
    """The finished trials that a new trial must not be dominated by, and how far its prompts are answered.

    points: finished trials. priorities: how often each target prompt was refused before; prompts with many
    refusals rule out a bad edit soonest. exhaustive: judge every prompt and run every layer, also of
    dominated trials.
    """

    points: tuple[Point, ...] = ()
    priorities: tuple[float, ...] | None = None
    exhaustive: bool = False


class EditScoring(Protocol):
    """Scores edits side by side, each as if it ran alone; edits leave in the order in which they began."""

    def __len__(self) -> int:
        """Number of edits that are being scored."""
        ...

    @property
    def prompts(self) -> int:
        """Number of prompts that are being answered."""
        ...

    @property
    def ready(self) -> bool:
        """True if another edit could begin at once and would delay no other edit."""
        ...

    @property
    def finished(self) -> bool:
        """True if the scores of the oldest edit can be taken."""
        ...

    def begin(self, edit: Edit, bound: Bound) -> None:
        """Begin to score an edit."""
        ...

    def advance(self, *, more: bool, seconds: float) -> None:
        """Decode until the oldest edit is finished, or until another edit can begin.

        more: whether an edit waits to begin. seconds: the time after which it returns in any case.
        """
        ...

    def learn(self, point: Point) -> None:
        """Add a finished trial to the bounds of all running trials."""
        ...

    def take(self) -> tuple[Scored | TrialError, float]:
        """The scores of the oldest edit, which must be finished, and the seconds that it took."""
        ...
