"""A search repeated with other seeds: the same model, prompts and directions, another stream of chances."""

from __future__ import annotations

from collections.abc import Iterator

from excise.app.run import Run, identity_of
from excise.events import Note
from excise.store.opening import open_run
from excise.store.stored_study import StoredStudy


def further_seeds(run: Run) -> Iterator[Run]:
    """The run with each of its further seeds, in folders of its own run directory; each can be resumed.

    Each is this process's alone until the next is asked for. Raises RunError if one of the folders belongs
    to something else, SaveError if it cannot be written.
    """
    settings, source = run.settings, run.loaded.source
    for seed in range(settings.seed + 1, settings.seed + settings.seeds):
        folder = run.directory.path / f"seed-{seed}"
        own = settings.model_copy(update={"seed": seed, "run_dir": folder, "seeds": 1})
        experiment = run.experiment.with_seed(seed)
        identity = identity_of(own, source, experiment.prompts)
        with open_run(folder, identity) as directory:
            for note in directory.notes:
                experiment.emit(Note(note))
            store = StoredStudy.open(directory, experiment.proposals, identity, run.store.origin)
            yield Run(own, run.loaded, experiment, store)
