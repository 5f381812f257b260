"""`result.json`, the record of a run, which is rewritten after every change.

Keys are documented in docs/reference/run-directory.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.devices.environment import hardware_digest, versions
from excise.prompts.splits import Prompts
from excise.search.front import Point
from excise.search.objective import as_json
from excise.search.study import Trial
from excise.store.description import RunDescription
from excise.store.directory import FORMAT, RunDirectory, set_digest, write_json
from excise.store.judged import JudgedFront, judged_in, judged_json
from excise.store.outcome import Outcome, chosen_json, counts, outcome_of


def write_result(
    directory: RunDirectory,
    run: RunDescription,
    trials: Sequence[Trial],
    front: Sequence[Point],
    outcome: Outcome | None = None,
    judged: JudgedFront | None = None,
) -> None:
    """Write `result.json`. Raises SaveError.

    outcome: None keeps the earlier chosen trial while it is on the front. judged: None keeps the earlier
    verdicts on trials of the front.
    """
    outcome = outcome or chosen_before(directory, front)
    execution = run.execution
    seconds = {
        **run.seconds,
        "search": sum(trial.seconds or 0.0 for trial in trials),
        "held_out": outcome.seconds if outcome else 0.0,
    }
    content: dict[str, object] = {
        "format": FORMAT,
        "model": run.identity.model,
        "model_digest": run.identity.model_digest,
        "settings_digest": run.identity.settings_digest,
        "dtype": execution.dtype,
        "batch_size": execution.batch_size,
        "candidates": execution.candidates,
        "device": execution.device,
        "circumstances": _circumstances(run),
        "coverage": list(run.coverage),
        "uncovered": dict(run.uncovered),
        "prompts": _origins(run.prompts),
        "baseline": {
            "search": {"refusals": run.refusals, "prompts": run.search_prompts},
            **({"held_out": counts(outcome.original, outcome)} if outcome else {}),
        },
        **as_json(run.objectives),
        "trials": [trial.as_json() for trial in trials],
        "front": [point.number for point in front],
        "chosen": chosen_json(outcome) if outcome else None,
        **judged_json(judged or _judged_before(directory, front)),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    write_json(directory.result, content)


def chosen_before(directory: RunDirectory, front: Sequence[Point]) -> Outcome | None:
    """The chosen trial of the record, if it is still on the front. Raises RunError."""
    if not directory.result.exists():
        return None
    outcome = outcome_of(directory.record())
    on_front = outcome is not None and outcome.trial in {point.number for point in front}
    return outcome if on_front else None


def _judged_before(directory: RunDirectory, front: Sequence[Point]) -> JudgedFront | None:
    judged = judged_in(directory.record()) if directory.result.exists() else None
    return None if judged is None else judged.of_front(front)


def settled_facts(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The measured values of the run, by the names of `excise.experiment.settle.Settled`.

    None for a run of an older version, whose record lacks them.
    """
    known = record.get("circumstances")
    if known is None:
        return None
    device = record.get("device")
    if device is None and known.get("hardware"):
        # Older records have no digest.
        device = hardware_digest([known["hardware"]])
    return {
        "batch_size": int(record["batch_size"]),
        "rows": int(known["rows"]),
        "candidates": int(record["candidates"]),
        "device": device,
        "response_prefix": str(known["response_prefix"]),
        "template_arguments": dict(known.get("template_arguments", {})),
    }


def _origins(prompts: Prompts) -> Mapping[str, object]:
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
        for kind, parts in (("target", prompts.target), ("control", prompts.control))
    }


def _circumstances(run: RunDescription) -> Mapping[str, object]:
    known: dict[str, object] = {
        "rows": run.execution.rows,
        "in_blocks": run.execution.in_blocks,
        "response_prefix": run.response_prefix,
        **run.asked_with,
        "versions": versions(),
    }
    if run.execution.hardware is not None:
        known["hardware"] = run.execution.hardware
    return known
