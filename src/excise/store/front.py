"""The front on disk: an edit file for each of its trials, and the record that names them."""

from __future__ import annotations

from dataclasses import replace

from excise.app.prepare import Prepared
from excise.config import settings_digest
from excise.edits.base import Base
from excise.experiment.bank import edit_of
from excise.search.front import Point, pareto_front
from excise.search.space import propose
from excise.search.study import Study
from excise.store.record import asked_with, chosen_before, held_out_facts, write_result


def write_front(prepared: Prepared, study: Study, points: list[Point]) -> list[Point]:
    """Bring the run directory up to date: an edit file for each front trial, and the record.

    The journal is ahead of both. Interrupted at any point, the next call makes what is missing: edits are
    written before the record names them, and deleted once it does not.
    """
    front = pareto_front(points)
    directory = prepared.directory
    chosen = chosen_before(prepared, front)
    records = {record.number: record for record in study.records()}
    for point in front:
        path = directory.edit_path(point.number)
        if not path.exists():
            trial = study.finished(point.number)
            edit = edit_of(
                propose(trial, prepared.settings.kinds, prepared.anatomy),
                prepared.bank,
                prepared.anatomy,
            )
            facts: dict[str, object] = {
                "trial": point.number,
                "refusals": point.refusals,
                "kl": point.kl,
                "prompts": len(prepared.search_part.target),
                "uncovered": dict(prepared.coverage.suspects),
                "packing": prepared.loaded.packing,
                **({"asked_with": how} if (how := asked_with(prepared)) else {}),
            }
            if chosen is not None and chosen.trial == point.number:
                facts |= held_out_facts(chosen)
            parameters = dict(records[point.number].parameters)
            replace(
                edit,
                parameters=parameters,
                facts=facts,
                base=Base.of(prepared.loaded.source),
                settings_digest=settings_digest(prepared.settings),
            ).save(path)
    told = [record for record in records.values() if record.state != "running"]
    write_result(prepared, told, front)
    directory.keep_edits(point.number for point in front)
    return front
