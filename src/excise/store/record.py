"""`result.json`: the record of a run, versioned, rewritten whole whenever something was added.

Keys are documented in docs/reference/run-directory.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from excise.config import settings_digest
from excise.devices.device import input_device
from excise.devices.environment import devices_digest, hardware, versions
from excise.devices.memory import devices_of
from excise.engine.generation import settings_not_followed
from excise.scorers.divergence import UNRECORDED, AnswerTokens
from excise.scorers.interval import Estimate
from excise.search.front import Point
from excise.search.study import Record
from excise.store.directory import FORMAT, set_digest, write_json
from excise.store.shape import MeasuredFacts, require_shape

if TYPE_CHECKING:
    from excise.app.prepare import Prepared


@dataclass(frozen=True)
class Answered:
    """How one model answers a part of the prompts.

    refusals: of target prompts; control_refusals: of control prompts. empty, looping: among all answers.
    """

    refusals: int
    control_refusals: int
    empty: int
    looping: int


@dataclass(frozen=True)
class Outcome:
    """The chosen trial, measured on held-out prompts, beside the original model.

    kl: KL of the first answer token; answer_kl: its mean over the first 32 tokens of the original model's
    answers, teacher-forced; nats, mean over control prompts with 95 % intervals. answer_tokens: how many
    tokens of an answer that were, which is fewer where less was allowed or said.
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


def write_result(
    prepared: Prepared,
    records: Sequence[Record],
    front: Sequence[Point],
    outcome: Outcome | None = None,
) -> None:
    """Write `result.json`. Raises SaveError.

    Without a new `outcome`, the trial that was chosen before stays chosen while it is on the front.
    """
    part = prepared.search_part
    outcome = outcome or chosen_before(prepared, front)
    seconds = {
        **prepared.seconds,
        "search": sum(record.seconds or 0.0 for record in records),
        "held_out": outcome.seconds if outcome else 0.0,
    }
    content: dict[str, object] = {
        "format": FORMAT,
        "model": prepared.settings.model,
        "model_digest": prepared.loaded.source.digest,
        "settings_digest": settings_digest(prepared.settings),
        "dtype": prepared.loaded.dtype,
        "batch_size": prepared.runner.slots,
        "candidates": prepared.candidates,
        "device": devices_digest(devices_of(prepared.loaded.model)),
        "circumstances": _circumstances(prepared),
        "coverage": list(prepared.coverage.per_layer),
        "uncovered": dict(prepared.coverage.suspects),
        "prompts": _origins(prepared),
        "baseline": {
            "search": {"refusals": part.refusals, "prompts": len(part.target)},
            **({"held_out": _counts(outcome.original, outcome)} if outcome else {}),
        },
        "trials": [asdict(record) for record in records],
        "front": [point.number for point in front],
        "chosen": _chosen(outcome) if outcome else None,
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    write_json(prepared.directory.result, content)


def chosen_before(prepared: Prepared, front: Sequence[Point]) -> Outcome | None:
    """The trial that the record says was chosen, if it is still on the front. Raises RunError."""
    if not prepared.directory.result.exists():
        return None
    outcome = outcome_of(prepared.directory.record())
    on_front = outcome is not None and outcome.trial in {point.number for point in front}
    return outcome if on_front else None


def outcome_of(record: Mapping[str, Any]) -> Outcome | None:
    """The chosen trial as `result.json` holds it, None if none was chosen."""
    chosen = record["chosen"]
    if chosen is None:
        return None
    search = chosen["search"]
    return _outcome(
        Point(chosen["trial"], search["refusals"], search["kl"]),
        search["prompts"],
        record["baseline"]["held_out"],
        chosen["held_out"],
        record["seconds"]["held_out"],
    )


def outcome_in(facts: Mapping[str, Any]) -> Outcome | None:
    """The same as an edit file holds it in its facts, None if it was not measured on held-out prompts.

    Raises RunError if they are no figures.
    """
    if "held_out" not in facts:
        return None
    require_shape("the facts of the edit file", facts, MeasuredFacts)
    held_out = facts["held_out"]
    return _outcome(
        Point(facts["trial"], facts["refusals"], facts["kl"]),
        facts["prompts"],
        held_out["original"],
        held_out["edited"],
        0.0,
    )


def held_out_facts(outcome: Outcome) -> dict[str, object]:
    """The facts that `outcome_in` reads again."""
    return {
        "held_out": {
            "original": _counts(outcome.original, outcome),
            "edited": _held_out(outcome),
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
        seconds=seconds,
    )


def _answered(stored: Mapping[str, Any]) -> Answered:
    return Answered(**{each.name: stored[each.name] for each in fields(Answered)})


def _origins(prepared: Prepared) -> Mapping[str, object]:
    return {
        kind: {
            part: {
                "origin": prompts.origin,
                "revision": prompts.revision,
                "prompts": len(prompts),
                "digest": set_digest(prompts),
            }
            for part, prompts in (
                ("train", parts.train),
                ("search", parts.search),
                ("held_out", parts.held_out),
            )
        }
        for kind, parts in (
            ("target", prepared.prompts.target),
            ("control", prepared.prompts.control),
        )
    }


def _circumstances(prepared: Prepared) -> Mapping[str, object]:
    known: dict[str, object] = {
        "rows": prepared.runner.rows,
        "in_blocks": prepared.loaded.prepacked,
        "response_prefix": prepared.runner.chat.response_prefix,
        **asked_with(prepared),
        "versions": versions(),
    }
    if not prepared.settings.no_hardware:
        known["hardware"] = hardware(input_device(prepared.loaded.model))
    return known


def asked_with(prepared: Prepared) -> dict[str, object]:
    """How prompts were put and answers chosen, as far as there is something to say.

    response_prefix: what all answers begin with. template_arguments: given and found ones.
    generation_config: what the model's own asks for and scores did not follow.
    """
    chat = prepared.runner.chat
    known: dict[str, object] = {}
    if chat.response_prefix:
        known["response_prefix"] = chat.response_prefix
    if chat.call.arguments:
        known["template_arguments"] = dict(chat.call.arguments)
    if unfollowed := settings_not_followed(prepared.loaded.model.generation_config):
        known["generation_config"] = unfollowed
    return known


def _counts(answered: Answered, outcome: Outcome) -> dict[str, object]:
    prompts = {"prompts": outcome.prompts, "control_prompts": outcome.control_prompts}
    return {**asdict(answered), **prompts}


def _chosen(outcome: Outcome) -> Mapping[str, object]:
    return {
        "trial": outcome.trial,
        "search": {
            "refusals": outcome.search.refusals,
            "prompts": outcome.search_prompts,
            "kl": outcome.search.kl,
        },
        "held_out": _held_out(outcome),
    }


def _held_out(outcome: Outcome) -> dict[str, object]:
    return {
        **_counts(outcome.edited, outcome),
        "kl": asdict(outcome.kl),
        "answer_kl": asdict(outcome.answer_kl),
        "answer_tokens": asdict(outcome.answer_tokens),
    }
