"""Scores a model in memory, or an edit of it, on benchmarks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from excise.benchmarks.events import BenchmarkProgress
from excise.benchmarks.options import BenchmarkOptions
from excise.benchmarks.score import BenchmarkScore
from excise.devices.memory import input_device
from excise.devices.out_of_memory import is_out_of_memory
from excise.edits.edit import Edit
from excise.engine.batch_size import with_halving
from excise.errors import BenchmarkError, first_line
from excise.events import Emit, Note, ignore
from excise.models.load import LoadedModel
from excise.system.quiet import silenced

_ON_A_CPU, _ELSEWHERE = 8, 32
_FEW_SHOT_SEED = 1234
"""lm-evaluation-harness's own default, so that its published examples are the same."""
_EVENTS = 100


class Benchmarks:
    """Benchmarks with their documents, ready to be asked.

    Raises BenchmarkError if lm-evaluation-harness is not installed, for an unknown benchmark, and for one
    that cannot be loaded.
    """

    def __init__(
        self, names: Sequence[str], options: BenchmarkOptions = BenchmarkOptions()
    ) -> None:
        if find_spec("lm_eval") is None:
            raise BenchmarkError(
                "benchmarks need lm-evaluation-harness: pip install 'excise[eval]'"
            )
        if isinstance(names, str) or not names:
            raise BenchmarkError("give the names of benchmarks, such as piqa and arc_easy")
        # Imported here, because only benchmarks need lm-evaluation-harness, and its import takes seconds.
        from excise.benchmarks.tasks import load_tasks

        self.options = options
        with silenced(), _seeded(options.seed):
            self._tasks = load_tasks(names, options.tasks)

    def scores(
        self, loaded: LoadedModel, edit: Edit | None = None, emit: Emit = ignore
    ) -> tuple[BenchmarkScore, ...]:
        """Score a model, with an edit in force. The model is as it was afterwards.

        Raises BenchmarkError if a benchmark fails, ModelError if the edit does not fit the model.
        """
        slots = self.options.batch_size or (
            _ON_A_CPU if input_device(loaded.model).type == "cpu" else _ELSEWHERE
        )

        def halved(size: int) -> None:
            emit(Note(f"out of memory; benchmarks go on with {size} at a time"))

        with edit.on(loaded.model) if edit is not None else nullcontext():
            found, _ = with_halving(slots, lambda size: self._scores(loaded, size, emit), halved)
        return found

    def _scores(self, loaded: LoadedModel, slots: int, emit: Emit) -> tuple[BenchmarkScore, ...]:
        from lm_eval import evaluate

        from excise.benchmarks.language_model import HarnessModel
        from excise.benchmarks.results import scores_of

        options = self.options
        for task in self._tasks["tasks"].values():
            task.set_fewshot_seed(seed=_FEW_SHOT_SEED)
        with silenced() as aloud, _seeded(options.seed), torch.inference_mode():
            reported = 0

            def progress(done: int, known: int) -> None:
                nonlocal reported
                if done == known or (done - reported) * _EVENTS >= known:
                    reported = done
                    with aloud():
                        emit(BenchmarkProgress(done, known))

            try:
                results: Any = evaluate(
                    lm=HarnessModel(loaded, slots, progress),
                    task_dict=self._tasks,
                    limit=options.limit,
                    # Its own standard errors start a process for each core.
                    bootstrap_iters=0,
                    system_instruction=options.system_prompt,
                    apply_chat_template=not options.plain_text,
                    fewshot_as_multiturn=not options.plain_text,
                )
            except Exception as error:
                # A task is a program: its functions may raise anything.
                if is_out_of_memory(error):
                    raise
                raise BenchmarkError(
                    f"the benchmarks {', '.join(self._tasks['tasks'])} failed ({first_line(error)})"
                ) from error
            return tuple(scores_of(results, self._tasks))


def benchmark(
    loaded: LoadedModel,
    benchmarks: Sequence[str],
    options: BenchmarkOptions = BenchmarkOptions(),
    *,
    edit: Edit | None = None,
    emit: Emit = ignore,
) -> tuple[BenchmarkScore, ...]:
    """Score a model, or an edit of it, on benchmarks of lm-evaluation-harness.

    benchmarks: names of tasks, groups or tags. edit: in force while the model answers; the model is as it was
    afterwards. Raises BenchmarkError if lm-evaluation-harness is not installed (`pip install excise[eval]`),
    for an unknown benchmark, and for one that cannot be loaded or fails; ModelError if the edit does not fit.
    """
    return Benchmarks(benchmarks, options).scores(loaded, edit, emit)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Tasks draw from the generators of Python, NumPy and PyTorch: both models meet the same draws.

    The generators are as they were afterwards.
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
