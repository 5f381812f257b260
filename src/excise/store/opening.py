"""A run directory opened to be worked on: by one process at a time, and mended first if need be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from excise.errors import RunError, SaveError, translated
from excise.search.space import REFUSAL_WEIGHT
from excise.store.directory import FORMAT, RunDirectory, write_json
from excise.store.identity import Identity, differences
from excise.store.journal import mend
from excise.system.files import write_error
from excise.system.lock import Busy, ProcessLock

_LOCK = "run.lock"
_OLD_LOCK = "journal.log.lock"
"""The lock of Optuna, used once: a link, which is deleted and never followed."""
_SAVED_BESIDE = ("model-", "adapter-")
"""Folders that are read again, and never written into, once they are there."""
_LEFT = re.compile(
    r"\.(run\.json|result\.json|edit-\d+\.safetensors)\.\d+\.partial|journal\.log\.lock"
)
"""What a killed process leaves of a file that it was writing; and the lock of Optuna, used once."""


@dataclass(frozen=True)
class OpenRun(RunDirectory):
    """A run directory whose lock this process holds until `close`: what may be written to.

    notes: what was mended when it was opened, a sentence each.
    """

    lock: ProcessLock
    notes: tuple[str, ...]

    def keep_edits(self, numbers: Iterable[int]) -> None:
        """Delete the edits of trials that are no longer on the front. Raises SaveError."""
        kept = {self.edit_path(number) for number in numbers}
        with translated(SaveError, f"{self.path}: old edits could not be deleted", OSError):
            for path in self.folder.glob("edit-*.safetensors"):
                if path not in kept:
                    # On Windows one that is being read stays for now: the next front takes it away.
                    with suppress(PermissionError):
                        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process work on this run."""
        self.lock.release()

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_run(path: Path, identity: Identity) -> OpenRun:
    """The run directory of a study, made if it is new, for this process alone until it is closed.

    Raises RunError if it belongs to another study, naming what differs, or if another process works on it,
    naming that; SaveError if it cannot be written.
    """
    directory = RunDirectory(path)
    # Before the lock: nothing is put into a folder that is none of ours, or through a link out of it.
    _require_no_links(directory)
    _require_run_or_new(directory)
    lock = _locked(directory)
    try:
        if directory.is_run:
            _require_searchable(directory)
            _require_same(directory, identity)
            _clear_away(directory)
            notes = _mended(directory)
        else:
            _require_run_or_new(directory)
            _clear_away(directory)
            content = {"format": FORMAT, **identity.model_dump()}
            write_json(directory.folder / "run.json", content)
            notes = ()
        return OpenRun(directory.path, lock, notes)
    except BaseException:
        lock.release()
        with suppress(OSError):
            # Only if nothing is in it, as when a new one could not be written to.
            directory.folder.rmdir()
        raise


def require_idle(directory: RunDirectory) -> None:
    """Raise RunError, naming it, if a process works on the run that is there."""
    if directory.is_run:
        _require_no_links(directory)
        _locked(directory).release()


def _require_run_or_new(directory: RunDirectory) -> None:
    """Raise RunError for a folder that holds something else."""
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        if directory.is_run or not directory.folder.exists():
            return
        # A process killed in the middle of its very first write leaves no more than these.
        ours = (_LOCK, f"{_LOCK}.json")
        names = [path.name for path in directory.folder.iterdir()]
    if any(name not in ours and not name.endswith(".partial") for name in names):
        raise RunError(f"{directory.path}: not empty and not a run directory; choose another one")


def _require_no_links(directory: RunDirectory) -> None:
    """Raise RunError for links among the files that a run writes: they lead writes out of its folder."""
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        paths = sorted(directory.folder.iterdir()) if directory.folder.is_dir() else []
    for path in paths:
        if path.is_symlink() and not path.name.startswith(_SAVED_BESIDE) and path.name != _OLD_LOCK:
            raise RunError(
                f"{path}: is a link, and a run writes into its own folder only; put the file itself there, "
                "or give another --run-dir"
            )


def _locked(directory: RunDirectory) -> ProcessLock:
    lock = ProcessLock(directory.folder / _LOCK)
    try:
        directory.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Busy as busy:
        raise RunError(
            f"{directory.path}: {busy}, is working on this run; wait until it ends, stop it, or give "
            "another --run-dir"
        ) from busy
    except OSError as error:
        raise write_error(directory.path, error) from error
    return lock


def _clear_away(directory: RunDirectory) -> None:
    """Delete what a killed process left of files that it was writing."""
    for path in directory.folder.iterdir():
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def _mended(directory: RunDirectory) -> tuple[str, ...]:
    if not mend(directory.journal):
        return ()
    return (
        f"{directory.path}: the last record of the journal was cut short or damaged, as by a full disk or a "
        "power failure; it is dropped, and the study goes on from the one before",
    )


def _require_searchable(directory: RunDirectory) -> None:
    """Raise RunError for a run of an older version that this one cannot go on with."""
    gone = [f"the kind {kind}" for kind in directory.former_kinds()]
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        journal = directory.journal.read_bytes() if directory.journal.exists() else b""
    if f'"{REFUSAL_WEIGHT}"'.encode() in journal:
        gone.append("trials of the gradient search")
    if gone:
        raise RunError(
            f"{directory.path}: has {' and '.join(gone)}, which excise no longer searches; show or export "
            "what it found, or give another --run-dir"
        )


def _require_same(directory: RunDirectory, identity: Identity) -> None:
    """Raise RunError if the run is of another study."""
    theirs = directory.identity()
    if theirs.trusts_code and not identity.trusts_code:
        raise RunError(
            f"{directory.path / 'run.json'}: the run was begun with --trust-remote-code, which counts only "
            f"where it is typed; give it again to run the code that comes with {identity.model}"
        )
    differing = differences(theirs.settings, identity.settings)
    if differing:
        raise RunError(
            f"{directory.path} belongs to other settings ({'; '.join(differing[:3])}); "
            "give these settings or another --run-dir"
        )
    changed = [f"the weights of {identity.model}"] * (theirs.model_digest != identity.model_digest)
    changed += ["the prompts"] * (theirs.prompts_digest != identity.prompts_digest)
    if changed:
        raise RunError(
            f"{directory.path}: {' and '.join(changed)} have changed since this run; give another --run-dir"
        )
