"""Scorers by name: excise's own, those of installed packages, and classes in modules."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from excise.errors import SettingsError, first_line, translated
from excise.judges.verdict import Judge
from excise.scorers.builtin import BUILT_IN
from excise.scorers.scorer import BETTER, Need, Scorer

GROUP = "excise.scorers"
"""The entry point group in which installed packages name scorers."""
OwnSettings = Mapping[str, Mapping[str, Any]]
"""Settings of scorers, by name: keyword arguments of their classes."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = frozenset(
    (
        *("number", "state", "parameters", "values", "seconds", "reason", "trial", "prompts"),
        *("event", "dominated", "done", "trials", "elapsed", "remaining", "peak_memory", "front"),
        *("uncovered", "packing", "asked_with", "held_out", "objectives", "knee", "fewest"),
    )
)
"""Keys that records and events have beside the names of objectives."""


def scorers_of(
    given: Sequence[Scorer | str], judge: Judge, settings: OwnSettings | None = None
) -> tuple[Scorer, ...]:
    """Scorers, some of them given by name. settings: of those that are made by name.

    Code of a package, or of a module in the form `module:Class`, runs only if its name is given. Raises
    SettingsError for unknown and for repeated names, for scorers that cannot be made, and for objects that
    are no scorers.
    """
    found: list[Scorer] = []
    for each in given:
        scorer = _made(each, judge, settings or {}) if isinstance(each, str) else each
        require_scorer(scorer, each)
        if scorer.name in {other.name for other in found}:
            raise SettingsError(f"scorer {scorer.name}: given twice")
        found.append(scorer)
    return tuple(found)


def require_known(names: Sequence[str], settings: OwnSettings | None = None) -> None:
    """Raise SettingsError for names that no scorer has. Nothing is loaded. settings: of scorers, by name."""
    for name in names:
        if ":" not in name and name not in BUILT_IN and name not in _installed():
            raise _unknown(name)
    for name in settings or {}:
        if name not in names and name not in BUILT_IN and name not in _installed():
            raise SettingsError(f"scorers.{name}: there are settings, but no scorer of this name")


def _made(name: str, judge: Judge, settings: OwnSettings) -> Scorer:
    """The scorer of a name."""
    make: Callable[..., Any]
    own = settings.get(name)
    if name in BUILT_IN:
        make = partial(BUILT_IN[name], judge)
    elif ":" in name:
        make = _imported(name)
        own = settings.get(str(getattr(make, "name", "")), {}) if own is None else own
    elif name in _installed():
        point = _installed()[name]
        with translated(SettingsError, f"scorer {name}: {point.value} cannot be loaded", Exception):
            make = point.load()
    else:
        raise _unknown(name)
    try:
        scorer: Scorer = make(**(own or {}))
    except (TypeError, ValueError) as error:
        place = f"scorers.{name}" if own else f"scorer {name}"
        raise SettingsError(f"{place}: {first_line(error)}") from error
    except Exception as error:
        # Scorers are foreign programs.
        raise SettingsError(f"scorer {name}: cannot be made ({first_line(error)})") from error
    return scorer


def _imported(name: str) -> Callable[..., Any]:
    """The class that `module:Class` names; the module may lie in the working directory."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with translated(SettingsError, f"scorer {name}: cannot be loaded", Exception):
            found: Callable[..., Any] = getattr(import_module(module), attribute)
    finally:
        sys.path.remove(here)
    return found


def _installed() -> dict[str, EntryPoint]:
    """The scorers of installed packages; nothing of them is loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _unknown(name: str) -> SettingsError:
    known = ", ".join([*BUILT_IN, *_installed()])
    return SettingsError(f"scorer {name}: unknown; there are {known}, and module:Class")


def require_scorer(scorer: object, given: object) -> None:
    """Raise SettingsError unless a value has all parts of a scorer."""
    named = given if isinstance(given, str) else type(given).__name__
    with translated(SettingsError, f"scorer {named}: cannot be used", Exception):
        if not isinstance(scorer, Scorer):
            lacking = [
                part
                for part in ("name", "unit", "better", "needs", "score")
                if part not in dir(scorer)
            ]
            raise SettingsError(f"scorer {named}: has no {', '.join(lacking)}")
        name, needs = scorer.name, list(scorer.needs)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(
                f"scorer {named}: its name is {name!r}; give lower-case letters, digits and underscores"
            )
        ours = type(scorer).__module__.startswith("excise.")
        if name in BUILT_IN and not ours:
            raise SettingsError(f"scorer {named}: its name {name} is that of a scorer of excise")
        if given in _installed() and given != name and not ours:
            raise SettingsError(
                f"scorer {named}: is named {name} by its class, {given} by its package"
            )
        if name in _RESERVED:
            raise SettingsError(f"scorer {named}: its name {name} has another meaning in records")
        if scorer.better not in BETTER:
            raise SettingsError(f"scorer {named}: better is {scorer.better!r}; give less or more")
        if not isinstance(scorer.unit, str):
            raise SettingsError(f"scorer {named}: its unit is {scorer.unit!r}, which is no text")
        wrong = [need for need in needs if not isinstance(need, Need)]
        if wrong:
            raise SettingsError(f"scorer {named}: needs {wrong[0]!r}, which is no need")
