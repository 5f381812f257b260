"""Repeats a search with other seeds: the same model, prompts and directions."""

from __future__ import annotations

from collections.abc import Iterator

from excise.app.run import Run, identity_of
from excise.events import Note
from excise.store.opening import open_run
from excise.store.stored_study import StoredStudy


def further_seeds(run: Run) -> Iterator[Run]:
    """A run for each further seed, in a folder of the run directory; each can be resumed.

    A run is closed when the next is requested. Raises RunError if a folder belongs to another run, SaveError
    if it cannot be written.
    """
    settings, source = run.settings, run.loaded.source
    for seed in range(settings.seed + 1, settings.seed + settings.seeds):
        folder = run.directory.path / f"seed-{seed}"
        seeded = settings.model_copy(update={"seed": seed, "run_dir": folder, "seeds": 1})
        experiment = run.experiment.with_seed(seed)
        identity = identity_of(seeded, source, experiment.prompts)
        with open_run(folder, identity) as directory:
            for note in directory.notes:
                experiment.emit(Note(note))
            store = StoredStudy.open(directory, experiment.proposals, identity, run.store.origin)
            yield Run(seeded, run.loaded, experiment, store)
