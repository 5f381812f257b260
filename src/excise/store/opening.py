"""Opens a run directory for writing by one process, and repairs it first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from excise.errors import RunError, SaveError, translated
from excise.search.space import REFUSAL_WEIGHT
from excise.store.directory import FORMAT, RunDirectory, write_json
from excise.store.identity import Identity, differences
from excise.store.journal import mend
from excise.system.files import write_error
from excise.system.lock import Busy, ProcessLock

_LOCK = "run.lock"
_OLD_LOCK = "journal.log.lock"
"""Optuna's lock, which older versions used: a link, which is deleted and never followed."""
_SAVED_BESIDE = ("model-", "adapter-")
"""Prefixes of folders that are never written into after their creation."""
_LEFT = re.compile(
    r"\.(run\.json|result\.json|edit-\d+\.safetensors)\.\d+\.partial|journal\.log\.lock"
)
"""Files of a killed process that are deleted, and Optuna's lock."""


@dataclass(frozen=True)
class OpenRun(RunDirectory):
    """A run directory for writing, whose lock this process holds until `close`.

    notes: sentences about repairs.
    """

    lock: ProcessLock
    notes: tuple[str, ...]

    def keep_edits(self, numbers: Iterable[int]) -> None:
        """Delete the edits of trials that are no longer on the front. Raises SaveError."""
        kept = {self.edit_path(number) for number in numbers}
        with translated(SaveError, f"{self.path}: old edits could not be deleted", OSError):
            for path in self.folder.glob("edit-*.safetensors"):
                if path not in kept:
                    # Windows does not delete a file that is being read; the next call does.
                    with suppress(PermissionError):
                        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_run(path: Path, identity: Identity) -> OpenRun:
    """The run directory of a study, created if it is new and locked until it is closed.

    Raises RunError if it belongs to another study or is in use by another process; SaveError if it cannot be
    written.
    """
    directory = RunDirectory(path)
    # Before the lock, so that nothing is written into a foreign folder or through a link.
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
            # Succeeds only for an empty folder.
            directory.folder.rmdir()
        raise


def require_idle(directory: RunDirectory) -> None:
    """Raise RunError if another process is using the run."""
    if directory.is_run:
        _require_no_links(directory)
        _locked(directory).release()


def _require_run_or_new(directory: RunDirectory) -> None:
    """Raise RunError for a folder with other contents than a run."""
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        if directory.is_run or not directory.folder.exists():
            return
        # A process that is killed during its first write leaves only these files.
        ours = (_LOCK, f"{_LOCK}.json")
        names = [path.name for path in directory.folder.iterdir()]
    if any(name not in ours and not name.endswith(".partial") for name in names):
        raise RunError(
            f"{directory.path}: not empty and not a run directory; choose another directory"
        )


def _require_no_links(directory: RunDirectory) -> None:
    """Raise RunError for links, through which a run would write outside its folder."""
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        paths = sorted(directory.folder.iterdir()) if directory.folder.is_dir() else []
    for path in paths:
        if path.is_symlink() and not path.name.startswith(_SAVED_BESIDE) and path.name != _OLD_LOCK:
            raise RunError(
                f"{path}: is a link, but a run writes only into its own folder; put the file itself there, "
                "or give another store (--run-dir)"
            )


def _locked(directory: RunDirectory) -> ProcessLock:
    lock = ProcessLock(directory.folder / _LOCK)
    try:
        directory.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Busy as busy:
        raise RunError(
            f"{directory.path}: {busy}, is working on this run; wait until it ends, stop it, or give "
            "another store (--run-dir)"
        ) from busy
    except OSError as error:
        raise write_error(directory.path, error) from error
    return lock


def _clear_away(directory: RunDirectory) -> None:
    """Delete incomplete files of a killed process."""
    for path in directory.folder.iterdir():
        if _LEFT.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()


def _mended(directory: RunDirectory) -> tuple[str, ...]:
    if not mend(directory.journal):
        return ()
    return (
        f"{directory.path}: the last record of the journal was incomplete or damaged, as by a full disk or a "
        "power failure; it was dropped, and the study continues from the record before",
    )


def _require_searchable(directory: RunDirectory) -> None:
    """Raise RunError for a run of an older version that cannot be continued."""
    former = [f"the kind {kind}" for kind in directory.former_kinds()]
    with translated(RunError, f"{directory.path}: could not be read", OSError):
        journal = directory.journal.read_bytes() if directory.journal.exists() else b""
    if f'"{REFUSAL_WEIGHT}"'.encode() in journal:
        former.append("trials of the gradient search")
    if former:
        raise RunError(
            f"{directory.path}: has {' and '.join(former)}, which excise no longer searches; show or export "
            "its edits, or give another store (--run-dir)"
        )


def _require_same(directory: RunDirectory, identity: Identity) -> None:
    """Raise RunError if the run is of another study."""
    stored = directory.identity()
    if stored.trusts_code and not identity.trusts_code:
        raise RunError(
            f"{directory.path / 'run.json'}: the run was started with trust_remote_code "
            "(--trust-remote-code), which is not stored; give it again to run the code that comes with "
            f"{identity.model}"
        )
    differing = differences(stored.settings, identity.settings)
    if differing:
        raise RunError(
            f"{directory.path} belongs to other settings ({'; '.join(differing[:3])}); "
            "give these settings or another store (--run-dir)"
        )
    changed = [f"the weights of {identity.model}"] * (stored.model_digest != identity.model_digest)
    changed += ["the prompts"] * (stored.prompts_digest != identity.prompts_digest)
    if changed:
        raise RunError(
            f"{directory.path}: {' and '.join(changed)} have changed since this run; give another store "
            "(--run-dir)"
        )
