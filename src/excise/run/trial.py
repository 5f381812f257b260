"""A trial: candidates in, scores out. A pure function of edits, prompts and what there is to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.engine.assignment import Early
from excise.engine.meter import Stages, unmeasured
from excise.errors import TrialError
from excise.run.runner import Part, Runner
from excise.scores.refusals import Refusals
from excise.search.front import Point, refusals_to_beat


@dataclass(frozen=True)
class Scored:
    """A candidate's scores.

    kl: nats, first answer token, mean over control prompts. answered: verdicts on target prompts; None if
    KL alone rules the candidate out. dominated: a trial before it is at least as good in both; its
    refusals are then a lower bound.
    """

    kl: float
    answered: Refusals | None
    dominated: bool

    @property
    def refusals(self) -> int:
        """Certain refusals."""
        return 0 if self.answered is None else self.answered.count


@dataclass(frozen=True)
class Contest:
    """What decides how much of a trial is waited for.

    to_beat: trials finished before. urgency: of each target prompt, how often it was refused before: asked
    first, these rule a bad candidate out soonest. exhaustive: wait for every verdict and run every layer all
    the same; the scores that come out are alike.
    """

    to_beat: tuple[Point, ...] = ()
    urgency: tuple[float, ...] | None = None
    exhaustive: bool = False


def score(
    runner: Runner,
    edits: VirtualEdits,
    candidates: Sequence[Edit],
    part: Part,
    contest: Contest,
    stages: Stages = unmeasured,
) -> list[Scored | TrialError]:
    """Score candidates side by side on one part of the prompts, each as if it were alone.

    KL comes first: it takes one forward pass, and tells how many refusals a candidate may have at most to
    be better than all before it. Once so many are certain its other answers are not waited for: whatever
    they are, the candidate is dominated. A candidate with a logit that is not a number gives the error.
    stages: opened for the stages "kl" and "refusals".
    """
    try:
        return list(_together(runner, edits, candidates, part, contest, stages))
    except TrialError as error:
        if len(candidates) == 1:
            return [error]
        # Somebody's logits are no numbers; alone, each answers for itself.
        return [
            scored
            for candidate in candidates
            for scored in score(runner, edits, [candidate], part, contest, stages)
        ]
    finally:
        edits.use(None)


def _together(
    runner: Runner,
    edits: VirtualEdits,
    candidates: Sequence[Edit],
    part: Part,
    contest: Contest,
    stages: Stages,
) -> list[Scored]:
    target, control = _early(part, candidates, contest)
    edits.use_several(candidates)
    with stages("kl"):
        divergences = runner.divergences(
            part.control, part.original, len(candidates), edits.assign, control
        )
    kls = [mean(each) for each in divergences]
    limits = [refusals_to_beat(contest.to_beat, kl) for kl in kls]
    going_on = [
        number
        for number, limit in enumerate(limits)
        if contest.exhaustive or limit is None or limit > 0
    ]
    answered: dict[int, Refusals] = {}
    if going_on:
        edits.use_several([candidates[number] for number in going_on])
        with stages("refusals"):
            judged = runner.judge(
                part.target,
                limits=[None if contest.exhaustive else limits[number] for number in going_on],
                urgency=contest.urgency,
                announce=edits.assign,
                early=target,
            )
        answered = dict(zip(going_on, judged, strict=True))
    found: list[Scored] = []
    for number, (kl, limit) in enumerate(zip(kls, limits, strict=True)):
        verdicts = answered.get(number)
        count = 0 if verdicts is None else verdicts.count
        found.append(Scored(kl, verdicts, limit is not None and count >= limit))
    return found


def _early(
    part: Part, candidates: Sequence[Edit], contest: Contest
) -> tuple[Early | None, Early | None]:
    """What is known of passes over target and over control prompts, before any of the candidates edits."""
    changed = [name for candidate in candidates for name in candidate.changed]
    cut = 0 if part.early is None or contest.exhaustive else part.early.cut(changed)
    if part.early is None or cut == 0:
        return None, None
    return (
        part.early.target.replaying(cut, len(part.target)),
        part.early.control.replaying(cut, len(part.control)),
    )
