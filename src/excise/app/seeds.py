"""A search repeated with other seeds: the same model, prompts and directions, another stream of chances."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from excise.app.prepare import Prepared
from excise.events import Emit, Note
from excise.store.directory import prompts_digest
from excise.store.opening import open_run
from excise.store.record import Outcome


@dataclass(frozen=True)
class SeedResult:
    """What one seed came to. hypervolume: of its whole front on search prompts, see `search.front`."""

    seed: int
    outcome: Outcome
    hypervolume: float


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and extremes of one figure over seeds."""

    mean: float
    deviation: float
    least: float
    most: float


def further_seeds(prepared: Prepared, emit: Emit) -> Iterator[Prepared]:
    """The run with each of its further seeds, in folders of its own run directory; each can be resumed.

    Each is this process's alone until the next is asked for. Raises RunError if one of the folders belongs
    to something else, SaveError if it cannot be written.
    """
    settings = prepared.settings
    for seed in range(settings.seed + 1, settings.seed + settings.seeds):
        folder = prepared.directory.path / f"seed-{seed}"
        own = settings.model_copy(update={"seed": seed, "run_dir": folder, "seeds": 1})
        digest = prepared.loaded.source.digest
        with open_run(own, digest, prompts_digest(prepared.prompts)) as directory:
            for note in directory.notes:
                emit(Note(note))
            yield replace(prepared, settings=own, directory=directory)


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError unless there are two values at least."""
    if len(values) < 2:
        raise ValueError("a spread needs two values at least")
    return Spread(statistics.mean(values), statistics.stdev(values), min(values), max(values))


def spreads(results: Sequence[SeedResult]) -> dict[str, Spread]:
    """The spread of each figure of the chosen edits on held-out prompts, and of the fronts."""
    figures = {
        "held-out refusals": [float(each.outcome.edited.refusals) for each in results],
        "held-out KL, first answer token": [each.outcome.kl.mean for each in results],
        f"held-out {results[0].outcome.answer_tokens.title}": [
            each.outcome.answer_kl.mean for each in results
        ],
        "hypervolume of the front": [each.hypervolume for each in results],
    }
    return {name: spread(values) for name, values in figures.items()}
