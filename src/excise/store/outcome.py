"""The figures of the chosen trial on held-out prompts: as a value, in the record, and in an edit file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from excise.scorers.divergence import UNRECORDED, AnswerTokens
from excise.scorers.groups import UNGROUPED, FiguresByGroup, GroupFigures
from excise.scorers.statistics import Estimate, Share
from excise.search.front import Point
from excise.search.objective import Objectives, objectives_in
from excise.store.further import Further, further_in, further_json
from excise.store.shape import MeasuredFacts, require_shape


@dataclass(frozen=True)
class Answered:
    """The answers of a model to a part of the prompts, counted.

    refusals: of target prompts; control_refusals: of control prompts. empty, looping: among all answers.
    """

    refusals: int
    control_refusals: int
    empty: int
    looping: int


@dataclass(frozen=True)
class Outcome:
    """The chosen trial and the original model on held-out prompts.

    kl: KL of the first answer token; answer_kl: its mean over the first 32 tokens of the original model's
    answers, teacher-forced; nats, mean over control prompts with 95 % intervals. answer_tokens: number of
    tokens of an answer, which may be shorter than 32. further: figures of other scorers. groups: the figures
    of each group of prompts. judge: the name of the judge of refusals; None in records of former versions,
    which had 54 phrases.
    """

    trial: int
    search: Point
    search_prompts: int
    prompts: int
    control_prompts: int
    original: Answered
    edited: Answered
    kl: Estimate
    answer_kl: Estimate
    seconds: float
    answer_tokens: AnswerTokens = UNRECORDED
    groups: FiguresByGroup = UNGROUPED
    further: tuple[Further, ...] = ()
    judge: str | None = None


def outcome_of(record: Mapping[str, Any]) -> Outcome | None:
    """The chosen trial in `result.json`, None if no trial was chosen."""
    chosen = record["chosen"]
    if chosen is None:
        return None
    search = chosen["search"]
    return _outcome(
        point_in(chosen["trial"], search, objectives_in(record)),
        search["prompts"],
        record["baseline"]["held_out"],
        chosen["held_out"],
        record["seconds"]["held_out"],
    )


def outcome_in(facts: Mapping[str, Any]) -> Outcome | None:
    """The figures in the facts of an edit file, None without held-out figures. Raises RunError."""
    if "held_out" not in facts:
        return None
    require_shape("the facts of the edit file", facts, MeasuredFacts)
    held_out = facts["held_out"]
    return _outcome(
        point_in(facts["trial"], facts, objectives_in(facts)),
        facts["prompts"],
        held_out["original"],
        held_out["edited"],
        0.0,
    )


def point_in(number: int, values: Mapping[str, Any], objectives: Objectives) -> Point:
    """A trial whose values stand in a record under the names of the objectives."""
    return Point(number, tuple(values[each.name] for each in objectives), objectives)


def held_out_facts(outcome: Outcome) -> dict[str, object]:
    """The facts that `outcome_in` reads again."""
    return {
        "held_out": {
            "original": counts(outcome.original, outcome),
            "edited": held_out_json(outcome),
        }
    }


def _outcome(
    search: Point,
    search_prompts: int,
    original: Mapping[str, Any],
    held_out: Mapping[str, Any],
    seconds: float,
) -> Outcome:
    recorded = held_out.get("answer_tokens")
    return Outcome(
        trial=search.number,
        search=search,
        search_prompts=search_prompts,
        prompts=held_out["prompts"],
        control_prompts=held_out["control_prompts"],
        original=_answered(original),
        edited=_answered(held_out),
        kl=Estimate(**held_out["kl"]),
        answer_kl=Estimate(**held_out["answer_kl"]),
        answer_tokens=AnswerTokens(**recorded) if recorded else UNRECORDED,
        groups=groups_in(held_out.get("groups", {})),
        further=further_in(held_out),
        seconds=seconds,
        judge=held_out.get("judge"),
    )


def _answered(stored: Mapping[str, Any]) -> Answered:
    return Answered(**{each.name: stored[each.name] for each in fields(Answered)})


def groups_in(stored: Mapping[str, Any]) -> FiguresByGroup:
    """Figures by group, read from JSON. Older records have none."""
    return FiguresByGroup(
        **{
            kind: tuple(GroupFigures(**{**group, **_intervals(group)}) for group in groups)
            for kind, groups in stored.items()
        }
    )


def _intervals(group: Mapping[str, Any]) -> dict[str, Share | Estimate | None]:
    shares = {
        name: None if (found := group[name]) is None else Share(found["count"], found["of"])
        for name in ("original", "edited")
    }
    estimates = {
        name: None if (found := group[name]) is None else Estimate(**found)
        for name in ("kl", "answer_kl")
    }
    return {**shares, **estimates}


def counts(answered: Answered, outcome: Outcome) -> dict[str, object]:
    """A model's answers as JSON, with the numbers of prompts of `outcome`."""
    prompts = {"prompts": outcome.prompts, "control_prompts": outcome.control_prompts}
    return {**asdict(answered), **prompts}


def chosen_json(outcome: Outcome) -> Mapping[str, object]:
    """The value of "chosen", which `outcome_of` reads."""
    return {
        "trial": outcome.trial,
        "search": {
            **outcome.search.by_name,
            "prompts": outcome.search_prompts,
        },
        "held_out": held_out_json(outcome),
    }


def held_out_json(outcome: Outcome) -> dict[str, object]:
    """The edited model on held-out prompts."""
    return {
        **counts(outcome.edited, outcome),
        "kl": asdict(outcome.kl),
        "answer_kl": asdict(outcome.answer_kl),
        "answer_tokens": asdict(outcome.answer_tokens),
        **({"groups": asdict(outcome.groups)} if outcome.groups != UNGROUPED else {}),
        **further_json(outcome.further),
        **({} if outcome.judge is None else {"judge": outcome.judge}),
    }
