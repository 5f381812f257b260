"""Figures by group of prompts as rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from excise.scorers.groups import FiguresByGroup, GroupFigures

_FIGURES = {
    "original": "refused, original",
    "edited": "refused, edited",
    "kl": "KL, first token (nats)",
    "answer_kl": "KL, answer tokens (nats)",
}
"""Fields of `GroupFigures` and their headings."""


@dataclass(frozen=True)
class GroupTable:
    """A table whose first column names groups."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_by_group(groups: FiguresByGroup) -> list[GroupTable]:
    """The figures of target and of control prompts; no table for prompts without groups."""
    found = {"target": groups.target, "control": groups.control}
    return [_table(kind, figures) for kind, figures in found.items() if figures]


def _table(kind: str, groups: Sequence[GroupFigures]) -> GroupTable:
    fields = [name for name in _FIGURES if getattr(groups[0], name) is not None]
    headings = (f"{kind} prompts", *(_FIGURES[name] for name in fields))
    return GroupTable(
        headings,
        tuple((group.name, *(str(getattr(group, name)) for name in fields)) for group in groups),
    )
