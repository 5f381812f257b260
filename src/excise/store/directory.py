"""The run directory: everything a run writes, and what ties it to its model and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.edits.edit import Edit
from excise.errors import RunError
from excise.kinds import KINDS, current_name, former_name, with_current_kind
from excise.prompts.sets import PromptSet
from excise.prompts.splits import Prompts
from excise.store.identity import Identity, stored_digest
from excise.store.shape import ResultShape, require_shape
from excise.system.files import write_bytes
from excise.system.json_files import read_json_object
from excise.system.paths import directory_name, last_part, names_a_path

FORMAT = 6
"""3 since trials that cannot better the front are pruned, and candidates are scored side by side; 4 since
weights lie in blocks, which rounds otherwise; 5 since each file holds a checksum of its own contents; 6 since
kinds have the names of edit format 5.

Each file has its own format. Files of an older format are read with the names of today and stay as they are
until they are written anew; `Journal` does the same for its records."""
_OLDEST = 4
_CHECKED_SINCE = 5
_RENAMED_IN = 6
_CHECKSUM = "sha256"
DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True)
class RunDirectory:
    """A folder with `run.json` (identity), `journal.log` (study), `edit-N.safetensors`, `result.json`.

    It is for reading, which goes on beside a search and writes nothing; see `excise.store.opening`.
    path: as it was given, for people. folder: the same, absolute, whatever the working directory becomes.
    """

    path: Path
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.path.absolute())

    @property
    def is_run(self) -> bool:
        """Whether there is a run."""
        return (self.folder / "run.json").exists()

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / "journal.log"

    @property
    def result(self) -> Path:
        """The record, see `excise.store.record`."""
        return self.folder / "result.json"

    def edit_path(self, number: int) -> Path:
        """The edit file of a front trial."""
        return self.folder / f"edit-{number}.safetensors"

    def edit(self, number: int) -> Edit:
        """The edit of a front trial. Raises RunError if there is none."""
        return Edit.load(self.edit_path(number))

    def identity(self) -> Identity:
        """What `run.json` holds. Raises RunError if this is no run directory or it is damaged."""
        path = self.folder / "run.json"
        content: dict[str, Any] = read_json(path, "not a run directory")
        identity = require_shape(path, content, Identity)
        if content["format"] >= _RENAMED_IN or not identity.kinds:
            return identity
        kinds = [current_name(kind) for kind in identity.kinds]
        return identity.with_settings({**identity.settings, "kinds": kinds})

    def former_kinds(self) -> tuple[str, ...]:
        """The kinds of the run that are no longer searched. Raises RunError."""
        return tuple(kind for kind in self.identity().kinds if kind not in KINDS)

    def record(self) -> dict[str, object]:
        """What `result.json` holds. Raises RunError if it is missing or damaged."""
        content: dict[str, Any] = read_json(self.result, "no result in this run directory yet")
        require_shape(self.result, content, ResultShape)
        if content["format"] < _RENAMED_IN:
            for trial in content["trials"]:
                trial["parameters"] = with_current_kind(trial["parameters"])
        return content


def read_json(path: Path, absent: str) -> dict[str, object]:
    """A JSON object of a known format, as it was written. Raises RunError."""
    if not path.exists():
        raise RunError(f"{path.parent}: {absent}")
    content = read_json_object(path, RunError)
    version = content.get("format")
    if not isinstance(version, int):
        raise RunError(f"{path}: damaged: its format is {version!r}")
    if version > FORMAT:
        raise RunError(
            f"{path}: format {version} is newer than this excise reads; install a newer one"
        )
    if version < _OLDEST:
        raise RunError(f"{path}: was written by an older excise; start anew in another folder")
    found = content.pop(_CHECKSUM, None)
    if (version >= _CHECKED_SINCE or found is not None) and found != _checksum(content):
        raise RunError(
            f"{path}: damaged: its contents do not match their checksum; start anew in another folder"
        )
    return content


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object; the file appears whole or not at all. Raises SaveError."""
    checked = {**content, _CHECKSUM: _checksum(content)}
    write_bytes(path, (json.dumps(checked, indent=1) + "\n").encode())


def _checksum(content: Mapping[str, object]) -> str:
    """SHA-256 over a JSON object without its checksum."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def default_path(settings: Mapping[str, object]) -> Path:
    """runs/<model>-<digest of the settings>: the same command finds its own run again.

    settings: those of the study, as in `Identity`. A run of an older format is found under the digest of its
    settings with the former names of kinds.
    """
    model, kinds = str(settings["model"]), settings["kinds"]
    assert isinstance(kinds, list)
    name = directory_name(last_part(model) if names_a_path(model) else model)
    former = {**settings, "kinds": [former_name(kind) for kind in kinds]}
    now, then = (DEFAULT_ROOT / f"{name}-{stored_digest(each)[:8]}" for each in (settings, former))
    return then if then.exists() and not now.exists() else now


def prompts_digest(prompts: Prompts) -> str:
    """What tells these prompts from others that may come from files of the same names."""
    digest = hashlib.sha256()
    for parts in (prompts.target, prompts.control):
        for part in (parts.train, parts.search, parts.held_out):
            digest.update(_canonical(part))
    return digest.hexdigest()[:16]


def set_digest(prompts: PromptSet) -> str:
    """SHA-256 over the prompts of one set, in order: 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(prompts)).hexdigest()


def _canonical(prompts: PromptSet) -> bytes:
    told = [
        [one.system_prompt, one.text, *([one.earlier] if one.earlier else [])]
        for one in prompts.prompts
    ]
    return json.dumps(told).encode()


def all_runs(root: Path = DEFAULT_ROOT) -> list[RunDirectory]:
    """The run directories under `root`, by name."""
    return [RunDirectory(path.parent) for path in sorted(root.glob("*/run.json"))]
