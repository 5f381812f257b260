"""The run directory: the files of a run, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.edits.edit import Edit
from excise.errors import RunError
from excise.judges.markers import FORMER_MARKERS
from excise.kinds import KINDS, current_name, former_name, with_current_kind
from excise.prompts.sets import PromptSet
from excise.prompts.splits import Prompts
from excise.store.identity import Identity, stored_digest
from excise.store.shape import ResultShape, require_shape
from excise.system.files import write_bytes
from excise.system.json_files import read_json_object
from excise.system.paths import directory_name, last_part, names_a_path

FORMAT = 6
"""Format 3: dominated trials are pruned, and candidates are scored side by side. 4: weights are prepacked,
which changes rounding. 5: each file has a checksum. 6: kinds have the names of edit format 5.

Each file has its own format. Files of an older format are read with the present names and keep their format
until they are written again; `Journal` does the same for its records."""
_OLDEST = 4
_CHECKED_SINCE = 5
_RENAMED_IN = 6
_CHECKSUM = "sha256"
DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True)
class RunDirectory:
    """A folder with `run.json` (identity), `journal.log` (study), `edit-N.safetensors`, `result.json`.

    It only reads, also during a search; `excise.store.opening` writes. path: as the user gave it. folder: the
    absolute path.
    """

    path: Path
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.path.absolute())

    @property
    def is_run(self) -> bool:
        """Whether the directory holds a run."""
        return (self.folder / "run.json").exists()

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / "journal.log"

    @property
    def result(self) -> Path:
        """The record, see `excise.store.record`."""
        return self.folder / "result.json"

    @property
    def verdicts(self) -> Path:
        """The folder in which verdicts of chat models are kept."""
        return self.folder / "judges"

    def edit_path(self, number: int) -> Path:
        """The edit file of a front trial."""
        return self.folder / f"edit-{number}.safetensors"

    def edit(self, number: int) -> Edit:
        """The edit of a front trial. Raises RunError if its file does not exist."""
        return Edit.load(self.edit_path(number))

    def identity(self) -> Identity:
        """The contents of `run.json`. Raises RunError if the file is missing or damaged."""
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

    def irreproducible(self) -> str | None:
        """Why no `reproduce.json` can be made of this run; None if it can. Raises RunError."""
        if gone := self.former_kinds():
            return f"the run has kinds that excise no longer searches ({', '.join(gone)})"
        if not self.identity().names_prompts:
            return "the prompts were given in memory, and no file names them"
        return None

    def record(self) -> dict[str, object]:
        """The contents of `result.json`. Raises RunError if the file is missing or damaged."""
        content: dict[str, Any] = read_json(self.result, "no result in this run directory yet")
        require_shape(self.result, content, ResultShape)
        if content["format"] < _RENAMED_IN:
            for trial in content["trials"]:
                trial["parameters"] = with_current_kind(trial["parameters"])
        return content


def read_json(path: Path, absent: str) -> dict[str, object]:
    """A JSON object of a known format, unchanged. absent: message for a missing file. Raises RunError."""
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
        raise RunError(f"{path}: was written by an older excise; start again in another folder")
    found = content.pop(_CHECKSUM, None)
    if (version >= _CHECKED_SINCE or found is not None) and found != _checksum(content):
        raise RunError(
            f"{path}: damaged: its contents do not match their checksum; start again in another folder"
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
    """runs/<model>-<digest of the settings>, so that the same command finds its run.

    settings: of the study, as in `Identity`. A run of an older format has the digest of settings with the
    former names of kinds, and that of a former version the markers that were the default then.
    """
    model, kinds = str(settings["model"]), settings["kinds"]
    assert isinstance(kinds, list)
    name = directory_name(last_part(model) if names_a_path(model) else model)
    renamed = {"kinds": [former_name(kind) for kind in kinds]}
    marked = {"markers": list(FORMER_MARKERS)} if settings["markers"] is None else {}
    now, *then = (
        DEFAULT_ROOT / f"{name}-{stored_digest({**settings, **changed})[:8]}"
        for changed in ({}, marked, marked | renamed)
    )
    return next((path for path in (now, *then) if path.exists()), now)


def prompts_digest(prompts: Prompts) -> str:
    """A digest that identifies the prompts, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for parts in (prompts.target, prompts.control):
        for part in (parts.train, parts.search, parts.held_out):
            digest.update(_canonical(part))
    return digest.hexdigest()[:16]


def set_digest(prompts: PromptSet) -> str:
    """SHA-256 over the prompts of one set, in order: 64 hexadecimal digits."""
    return hashlib.sha256(_canonical(prompts)).hexdigest()


def _canonical(prompts: PromptSet) -> bytes:
    values = [
        [each.system_prompt, each.text, *([each.earlier] if each.earlier else [])]
        for each in prompts.prompts
    ]
    return json.dumps(values).encode()


def all_runs(root: Path = DEFAULT_ROOT) -> list[RunDirectory]:
    """The run directories under `root`, by name."""
    return [RunDirectory(path.parent) for path in sorted(root.glob("*/run.json"))]
