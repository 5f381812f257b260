"""Scorers by name."""

from __future__ import annotations

from collections.abc import Sequence

from excise.errors import SettingsError
from excise.judges.verdict import Judge
from excise.scorers.builtin import BUILT_IN
from excise.scorers.scorer import Scorer


def scorers_of(given: Sequence[Scorer | str], judge: Judge) -> tuple[Scorer, ...]:
    """Scorers, some of them given by name. Raises SettingsError for unknown and for repeated names."""
    found: list[Scorer] = []
    for each in given:
        if isinstance(each, str) and each not in BUILT_IN:
            raise SettingsError(f"scorer {each}: unknown; excise has {', '.join(BUILT_IN)}")
        scorer = BUILT_IN[each](judge) if isinstance(each, str) else each
        if scorer.name in {other.name for other in found}:
            raise SettingsError(f"scorer {scorer.name}: given twice")
        found.append(scorer)
    return tuple(found)
