"""Finds and loads the tasks that benchmarks name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from excise.errors import BenchmarkError, translated
from excise.system.paths import expanded


def load_tasks(names: Sequence[str], folder: str | Path | None) -> dict[str, Any]:
    """The tasks, with their documents, and the groups that `names` name, by name.

    folder: with task files of the user. Raises BenchmarkError.
    """
    manager = _manager(names, folder)
    known = manager.all_tasks
    for name in names:
        if name not in known:
            raise BenchmarkError(f"{name}: no such benchmark{_nearest(name, known)}")
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in dict.fromkeys(names):
        # A task is a program: its functions and its data set may raise anything.
        with translated(BenchmarkError, f"{name}: the benchmark cannot be loaded", Exception):
            found = manager.load([name])
        for kind, entries in loaded.items():
            entries.update(found.get(kind, {}))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return loaded


def _manager(names: Sequence[str], folder: str | Path | None) -> TaskManager:
    """A manager that knows `names`. The harness's own 14,000 tasks take seconds to find."""
    if folder is None:
        return TaskManager()
    place = expanded(folder)
    if not place.is_dir():
        raise BenchmarkError(f"{place}: no such folder of task files")
    own = TaskManager(include_path=str(place), include_defaults=False)
    if not own.all_tasks:
        raise BenchmarkError(
            f"{place}: holds no task file (.yaml) that lm-evaluation-harness can read"
        )
    # Groups may name tasks of the harness.
    return own if set(names) <= set(own.all_subtasks) else TaskManager(include_path=str(place))


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; the nearest names are {', '.join(near)}" if near else ""
