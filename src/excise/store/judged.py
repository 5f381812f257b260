"""The front judged again by the chosen judge: as a value, and in the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from excise.judges.verdict import Outcome
from excise.scorers.statistics import Share
from excise.search.front import Point

SHOWN = 3
"""Most answers of a trial that are kept to show a disagreement."""


@dataclass(frozen=True)
class Disagreement:
    """An answer on which keywords and the judge disagree.

    refused: by keywords. outcome, reason: the judge's.
    """

    prompt: str
    answer: str
    refused: bool
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class JudgedTrial:
    """A trial's whole answers to the target prompts of the search, judged twice.

    keywords, refusals: refusals by keywords and by the judge. disagreements: number of answers. examples: the
    first of these answers.
    """

    number: int
    prompts: int
    keywords: int
    refusals: int
    disagreements: int
    examples: tuple[Disagreement, ...] = ()

    @property
    def share(self) -> Share:
        """The refusals by the judge, with their interval."""
        return Share(self.refusals, self.prompts)


@dataclass(frozen=True)
class JudgedFront:
    """The trials of the front, judged by the judge of this name."""

    judge: str
    trials: tuple[JudgedTrial, ...] = ()

    @property
    def by_number(self) -> dict[int, JudgedTrial]:
        """The trials by their numbers."""
        return {trial.number: trial for trial in self.trials}

    @property
    def answers(self) -> int:
        """The number of answers of all trials."""
        return sum(trial.prompts for trial in self.trials)

    @property
    def disagreements(self) -> int:
        """The number of answers on which keywords and the judge disagree."""
        return sum(trial.disagreements for trial in self.trials)

    @property
    def examples(self) -> tuple[Disagreement, ...]:
        """A few answers on which they disagree."""
        found = (each for trial in self.trials for each in trial.examples)
        distinct = dict.fromkeys(found)
        return tuple(distinct)[:SHOWN]

    def of_front(self, front: Sequence[Point]) -> JudgedFront:
        """The trials that are on the front, in its order."""
        known = self.by_number
        numbers = (point.number for point in front)
        return JudgedFront(self.judge, tuple(known[each] for each in numbers if each in known))

    def told(self) -> str:
        """How often keywords and the judge disagree, in a sentence."""
        return (
            f"keywords and {self.judge} disagree on {self.disagreements} of {self.answers} answers to target "
            "prompts of the search"
        )


def judged_json(judged: JudgedFront | None) -> dict[str, object]:
    """The key that `judged_in` reads; no key for a front that was not judged again."""
    return {} if judged is None or not judged.trials else {"judged": asdict(judged)}


def judged_in(record: Mapping[str, Any]) -> JudgedFront | None:
    """The judged front of a record, None without one."""
    stored = record.get("judged")
    if stored is None:
        return None
    trials = tuple(
        JudgedTrial(
            **{**each, "examples": tuple(Disagreement(**shown) for shown in each["examples"])}
        )
        for each in stored["trials"]
    )
    return JudgedFront(stored["judge"], trials)
