"""What a search knows of scoring: an edit and what it has to beat go in, scores come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from excise.edits.edit import Edit
from excise.errors import TrialError
from excise.scorers.refusals import Refusals
from excise.search.front import Point


@dataclass(frozen=True)
class Scored:
    """An edit's scores on the search prompts.

    kl: nats, first answer token, mean over control prompts; divergences: of each of them. answered: verdicts
    on target prompts; None if KL alone rules the edit out. dominated: a trial before it is at least as good
    in both; its refusals are then a lower bound.
    """

    kl: float
    answered: Refusals | None
    dominated: bool
    divergences: tuple[float, ...] = ()

    @property
    def refusals(self) -> int:
        """Certain refusals."""
        return 0 if self.answered is None else self.answered.count


@dataclass(frozen=True)
class Bound:
    """What decides how much of a trial is waited for.

    points: trials finished before. priorities: of each target prompt, how often it was refused before: asked
    first, these rule a bad edit out soonest. exhaustive: wait for every verdict and run every layer all the
    same; the scores that come out are alike.
    """

    points: tuple[Point, ...] = ()
    priorities: tuple[float, ...] | None = None
    exhaustive: bool = False


class EditScoring(Protocol):
    """Edits being scored side by side, each as if it were alone, and handed out in the order they came."""

    def __len__(self) -> int:
        """How many are under way."""
        ...

    @property
    def prompts(self) -> int:
        """How many of their prompts are being answered."""
        ...

    @property
    def ready(self) -> bool:
        """True if another edit can begin and nothing has to wait."""
        ...

    @property
    def finished(self) -> bool:
        """True if the first of those under way can be taken."""
        ...

    def begin(self, edit: Edit, bound: Bound) -> None:
        """Begin to score an edit."""
        ...

    def advance(self, *, more: bool, seconds: float) -> None:
        """Go on until the first is finished or, if there are `more` to come, until another can begin.

        seconds: after so many it returns in any case.
        """
        ...

    def learn(self, point: Point) -> None:
        """Let what is under way have this trial to beat as well."""
        ...

    def take(self) -> tuple[Scored | TrialError, float]:
        """The scores of the first of those under way, which is finished, and the seconds that it took."""
        ...
