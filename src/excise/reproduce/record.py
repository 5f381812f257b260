"""The file `reproduce.json`: typed, versioned, documented in docs/reference/reproduce-json.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer

from excise.checkpoint.folder import RECORD
from excise.config import Settings, study_settings
from excise.errors import ReproductionError
from excise.kinds import KINDS, current_name, with_current_kind
from excise.store.identity import stored_digest
from excise.system.json_files import first_fault, read_json_object

FORMAT = 2
"""2 since kinds have the names of edit format 5."""
_RENAMED_IN = 2
NAME = RECORD


class _Record(BaseModel):
    # Later versions may add keys, which this version ignores.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Original(_Record):
    """The original model. digest: as in `run.json`: hub commit, or a hash over the weight files."""

    name: str
    revision: str | None
    digest: str


class RecordedPrompts(_Record):
    """One part of the prompts. digest: SHA-256 over the prompts themselves, in order."""

    origin: str
    revision: str | None
    prompts: int
    digest: str


class RecordedParts(_Record):
    """The prompts of one kind."""

    train: RecordedPrompts
    search: RecordedPrompts
    held_out: RecordedPrompts


class PromptSets(_Record):
    """The prompts of both kinds."""

    target: RecordedParts
    control: RecordedParts

    def part(self, kind: str, part: str) -> RecordedPrompts:
        """One part of the prompts of one kind."""
        found: RecordedPrompts = getattr(getattr(self, kind), part)
        return found


class RecordedTrial(_Record):
    """The trial that was saved.

    parameters: of the search. strengths: of every writer, in order. completed: number of finished trials up
    to this trial. facts: of its edit file.
    """

    number: int
    parameters: dict[str, Any]
    strengths: tuple[float, ...]
    completed: int
    facts: dict[str, Any]


class Circumstances(_Record):
    """Conditions that decide rounding, and values that the run measured.

    dtype: in which the model ran. batch_size: prompts in a decoding batch. rows: prompts in a forward pass.
    in_blocks: whether weights were prepacked. response_prefix: common beginning of all answers.
    template_arguments: of the chat template. generation_config: the model's settings that scores did not
    follow. search: the sampler, other than "tpe" in former versions only. hardware: None if omitted.
    """

    dtype: str
    batch_size: int
    rows: int
    response_prefix: str
    versions: dict[str, str]
    search: str = "tpe"
    in_blocks: bool = False
    template_arguments: dict[str, Any] = {}
    generation_config: dict[str, str] = {}
    hardware: dict[str, str | int] | None = None


class RecordedTensor(_Record):
    """A stored tensor. dtype: as safetensors names it. sha256: of its raw bytes.

    norm, sketch: of the unpacked numbers of an edited tensor; see `fingerprint`.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    norm: float | None = None
    sketch: tuple[float, ...] | None = None


class Change(_Record):
    """Tensors that one operator changed. size: ‖W' − W‖ over all of them (Frobenius)."""

    tensors: tuple[str, ...]
    size: float


class Reproduction(_Record):
    """The contents of a `reproduce.json`.

    packed: form of packed tensors of edited matrices. settings: only those that decide the result are stored.
    figures: as in the model card.
    """

    format: int
    made: Literal["model", "adapter"]
    packed: Literal["same", "plain"] = "same"
    model: Original
    seed: int
    settings: Settings
    settings_digest: str
    prompts: PromptSets
    trial: RecordedTrial
    circumstances: Circumstances
    written_with: dict[str, str]
    figures: str
    tensors: dict[str, RecordedTensor]
    changes: tuple[Change, ...]

    @field_serializer("settings")
    def _of_the_study(self, settings: Settings) -> dict[str, object]:
        return study_settings(settings)

    def text(self) -> str:
        """The text of the file."""
        content = self.model_dump(mode="json")
        for empty in ("hardware", "template_arguments", "generation_config"):
            if not content["circumstances"][empty]:
                del content["circumstances"][empty]
        for entry in content["tensors"].values():
            if entry["sketch"] is None:
                del entry["norm"], entry["sketch"]
        return record_text(content)


def record_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each tensor and change, for comparison with `diff`."""
    long = ("tensors", "changes")
    head = json.dumps(
        {k: v for k, v in content.items() if k not in long}, indent=1, ensure_ascii=False
    )
    tensors = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in content["tensors"].items()
    )
    changes = ",\n".join(f"  {json.dumps(entry)}" for entry in content["changes"])
    return f'{head[:-2]},\n "tensors": {{\n{tensors}\n }},\n "changes": [\n{changes}\n ]\n}}\n'


def read_reproduction(path: Path) -> Reproduction:
    """Read a `reproduce.json`, given as a file or as its folder. Raises ReproductionError."""
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise ReproductionError(f"{path}: no such file")
    content = read_json_object(path, ReproductionError)
    if not isinstance(content.get("format"), int):
        raise ReproductionError(f"{path}: not a {NAME} of excise")
    if content["format"] > FORMAT:
        raise ReproductionError(
            f"{path}: format {content['format']} is newer than this excise reads ({FORMAT}); "
            "install a newer excise"
        )
    if content["format"] < _RENAMED_IN:
        _rename(path, content)
    try:
        record = Reproduction.model_validate(content)
    except ValidationError as error:
        raise ReproductionError(f"{path}: damaged: {first_fault(error)}") from error
    if not record.tensors:
        raise ReproductionError(
            f"{path}: holds no tensors and cannot be compared; save the {record.made} once more"
        )
    return record


def _rename(path: Path, content: dict[str, Any]) -> None:
    trial, settings = content.get("trial"), content.get("settings")
    if isinstance(trial, dict) and isinstance(trial.get("parameters"), dict):
        trial["parameters"] = with_current_kind(trial["parameters"])
    if not isinstance(settings, dict) or not isinstance(settings.get("kinds"), list):
        return
    settings["kinds"] = [current_name(str(kind)) for kind in settings["kinds"]]
    content["settings_digest"] = stored_digest(settings)
    if former := [kind for kind in settings["kinds"] if kind not in KINDS]:
        raise ReproductionError(
            f"{path}: has kinds that excise no longer searches ({', '.join(former)}) and cannot be rebuilt; "
            "the edit file of the run can still be applied, and the folder can be uploaded without this file"
        )
