"""The run directory: everything a run writes, and what ties it to its model and settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.config import Settings, differences, settings_digest, study_settings
from excise.edit.edit import Edit, load_edit
from excise.errors import RunError
from excise.files import replacing
from excise.prompts.sets import PromptSet
from excise.prompts.splits import PromptParts

FORMAT = 4
"""3 since trials that cannot better the front are pruned, and candidates are scored side by side."""
DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True)
class BatchSize:
    """slots: rows that decode at a time. rows: of a forward pass. candidates: scored side by side."""

    slots: int
    rows: int
    candidates: int


@dataclass(frozen=True)
class RunDirectory:
    """A folder with `run.json` (identity), `journal.log` (study), `edit-N.safetensors`, `result.json`."""

    path: Path

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "journal.log"

    @property
    def result(self) -> Path:
        """The record, see `excise.run.record`."""
        return self.path / "result.json"

    def edit_path(self, number: int) -> Path:
        """The edit file of a front trial."""
        return self.path / f"edit-{number}.safetensors"

    def edit(self, number: int) -> Edit:
        """The edit of a front trial. Raises RunError if there is none."""
        return load_edit(self.edit_path(number))

    def keep_edits(self, numbers: Iterable[int]) -> None:
        """Delete the edits of trials that are no longer on the front."""
        kept = {self.edit_path(number) for number in numbers}
        for path in self.path.glob("edit-*.safetensors"):
            if path not in kept:
                path.unlink()

    def identity(self) -> dict[str, object]:
        """What `run.json` holds. Raises RunError if this is no run directory or it is damaged."""
        return read_json(self.path / "run.json", "not a run directory")

    def record(self) -> dict[str, object]:
        """What `result.json` holds. Raises RunError if it is missing or damaged."""
        return read_json(self.result, "no result in this run directory yet")

    def dtype(self) -> str | None:
        """The data type that the run used so far, None for a new run. Raises RunError."""
        return str(self.record()["dtype"]) if self.result.exists() else None

    def batch(self) -> BatchSize | None:
        """The batch that the run used so far, None for a new run. Raises RunError."""
        if not self.result.exists():
            return None
        record: dict[str, Any] = self.record()
        return BatchSize(
            int(record["batch_size"]),
            int(record["circumstances"]["rows"]),
            int(record["candidates"]),
        )


def read_json(path: Path, absent: str) -> dict[str, object]:
    """A JSON object of a known format. Raises RunError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise RunError(f"{path}: format {content['format']} is newer than this excise reads")
        if content["format"] < FORMAT:
            raise RunError(f"{path}: was written by an older excise; start anew in another folder")
    except FileNotFoundError as error:
        raise RunError(f"{path.parent}: {absent}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RunError(f"{path}: damaged ({error})") from error
    return dict(content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object; the file appears whole or not at all. Raises SaveError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def default_path(settings: Settings) -> Path:
    """runs/<model>-<digest of the settings>: the same command finds its own run again."""
    model = Path(settings.model).name if settings.model.startswith((".", "/")) else settings.model
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
    return DEFAULT_ROOT / f"{slug}-{settings_digest(settings)[:8]}"


def prompts_digest(prompts: PromptParts) -> str:
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
    return json.dumps([[one.system_prompt, one.text] for one in prompts.prompts]).encode()


def open_run(settings: Settings, model_digest: str, prompts: str) -> RunDirectory:
    """The run directory of these settings, made if it is new.

    model_digest, prompts: what tells the checkpoint, and the prompts, from others of the same name.
    Raises RunError if it belongs to another model or other settings, naming what differs.
    """
    directory = RunDirectory(settings.run_dir or default_path(settings))
    identity = directory.path / "run.json"
    mine = study_settings(settings)
    if not identity.exists():
        # A process killed in the middle of its very first write leaves its temporary file only.
        if any(not path.name.endswith(".partial") for path in directory.path.glob("*")):
            raise RunError(
                f"{directory.path}: not empty and not a run directory; choose another one"
            )
        content: dict[str, object] = {
            "format": FORMAT,
            "model": settings.model,
            "model_digest": model_digest,
            "prompts_digest": prompts,
            "settings_digest": settings_digest(settings),
            "settings": mine,
        }
        write_json(identity, content)
        return directory
    theirs = directory.identity()
    if _trusts(theirs["settings"]) and not settings.trust_remote_code:
        raise RunError(
            f"{identity}: the run was begun with --trust-remote-code, which counts only where it is typed; "
            f"give it again to run the code that comes with {settings.model}"
        )
    differing = differences(dict(theirs["settings"]), mine)  # type: ignore[call-overload]
    if differing:
        raise RunError(
            f"{directory.path} belongs to other settings ({'; '.join(differing[:3])}); "
            "give these settings or another --run-dir"
        )
    for key, mine_now, what in (
        ("model_digest", model_digest, f"the weights of {settings.model}"),
        ("prompts_digest", prompts, "the prompts"),
    ):
        if theirs[key] != mine_now:
            raise RunError(
                f"{directory.path}: {what} have changed since this run; give another --run-dir"
            )
    return directory


def _trusts(settings: object) -> bool:
    return isinstance(settings, dict) and settings.get("trust_remote_code") is True


def all_runs(root: Path = DEFAULT_ROOT) -> list[RunDirectory]:
    """The run directories under `root`, by name."""
    return [RunDirectory(path.parent) for path in sorted(root.glob("*/run.json"))]
