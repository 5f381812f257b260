"""Figures by group of prompts as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from excise.scorers.groups import FiguresByGroup, GroupFigures

_REFUSALS = {"original": "refused, original", "edited": "refused, edited"}
_COSTS = {"kl": "KL, first token (nats)", "answer_kl": "KL, answer tokens (nats)"}
"""Fields of `GroupFigures` and their headings. A table with all of them would be too wide for a terminal."""


@dataclass(frozen=True)
class GroupTable:
    """A table whose first column names groups."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_by_group(groups: FiguresByGroup) -> list[GroupTable]:
    """The figures of target and of control prompts; no table for prompts without groups."""
    tables = [
        _table("target", groups.target, _REFUSALS),
        _table("control", groups.control, _REFUSALS),
        _table("control", groups.control, _COSTS),
    ]
    return [table for table in tables if table.rows]


def _table(kind: str, groups: Sequence[GroupFigures], figures: Mapping[str, str]) -> GroupTable:
    measured = [name for name in figures if any(getattr(each, name) is not None for each in groups)]
    return GroupTable(
        (f"{kind} prompts", *(figures[name] for name in measured)),
        tuple(
            (group.name, *(str(getattr(group, name)) for name in measured))
            for group in groups
            if measured
        ),
    )
