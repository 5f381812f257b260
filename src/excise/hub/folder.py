"""Checks a folder before its upload, and removes local paths from its records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.tensors import read_safetensors
from excise.errors import ModelError, SaveError
from excise.reproduce.record import NAME, Reproduction, read_reproduction, record_text
from excise.system.json_files import read_json_object
from excise.system.paths import last_part, names_a_path

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Upload:
    """Files by their names in the repository. contents: of files that are changed before they are sent."""

    made: Literal["model", "adapter"]
    files: dict[str, Path]
    contents: dict[str, bytes]
    record: Reproduction | None

    def size(self, name: str) -> int:
        """Bytes of a file as it is sent."""
        return (
            len(self.contents[name]) if name in self.contents else self.files[name].stat().st_size
        )

    def source(self, name: str) -> Path | bytes:
        """The file, or its changed content."""
        return self.contents.get(name, self.files[name])

    def sha256(self, name: str) -> str:
        """SHA-256 of the sent content, with which the hub identifies large files."""
        if name in self.contents:
            return hashlib.sha256(self.contents[name]).hexdigest()
        with self.files[name].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def git_hash(self, name: str) -> str:
        """Git's blob hash of the sent content, with which the hub identifies small files."""
        content = self.contents.get(name) or self.files[name].read_bytes()
        return hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()


def open_upload(folder: Path, *, hardware: bool = True) -> Upload:
    """Check a folder and list the files to upload. Raises SaveError.

    Hidden files are not uploaded. `reproduce.json` and the adapter's configuration are sent without local
    paths; hardware: False also leaves out the hardware.
    """
    if not folder.is_dir():
        raise SaveError(f"{folder}: no such folder; give one that excise saved, or a run directory")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SaveError(f"{path}: is a link out of the folder; replace it by the file itself")
        if path.is_file():
            files[name] = path
    made = _kind(folder, files)
    _require_whole(folder, made, files)
    if "README.md" not in files:
        raise SaveError(
            f"{folder}: has no README.md (model card); save it with excise, or write a README.md"
        )
    record = read_reproduction(folder) if NAME in files else None
    contents = {} if record is None else {NAME: public_record(files[NAME], hardware=hardware)}
    if made == "adapter":
        contents |= _base_by_name(files[_ADAPTER[0]])
    return Upload(made, files, contents, record)


def _kind(folder: Path, files: dict[str, Path]) -> Literal["model", "adapter"]:
    if all(name in files for name in _ADAPTER):
        return "adapter"
    if "config.json" in files and any(name.endswith(_WEIGHTS) for name in files):
        return "model"
    raise SaveError(
        f"{folder}: neither a model (config.json, *.safetensors or pytorch_model*.bin) nor an adapter "
        f"({', '.join(_ADAPTER)})"
    )


def _require_whole(folder: Path, made: str, files: dict[str, Path]) -> None:
    try:
        if made == "model":
            open_checkpoint(folder)
        for name, path in files.items():
            # Other safetensors files are uploaded too.
            if name.endswith(".safetensors"):
                read_safetensors(path)
    except ModelError as error:
        message = str(error).replace("download the checkpoint again", "save the model again")
        raise SaveError(message.replace("download it again", "save it again")) from error


def public_record(path: Path, *, hardware: bool) -> bytes:
    """A `reproduce.json` in which local paths are shortened to their last part.

    Digests still identify the files. hardware: False leaves the hardware out.
    """
    content = read_json_object(path, SaveError)
    if not hardware:
        content["circumstances"].pop("hardware", None)
    paths = sorted(set(_local_paths(content["model"], content["settings"])), key=len, reverse=True)
    text = record_text(content)
    for path_ in paths:
        mine, shown = (
            json.dumps(one, ensure_ascii=False)[1:-1] for one in (path_, last_part(path_))
        )
        text = text.replace(mine, shown)
    return text.encode()


def _base_by_name(configuration: Path) -> dict[str, bytes]:
    """The changed adapter configuration if its base model is a local path, which is shortened."""
    content = read_json_object(configuration, SaveError)
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise SaveError(
            f"{configuration}: damaged: base_model_name_or_path is missing; save the adapter again"
        )
    if not _is_path(base):
        return {}
    content["base_model_name_or_path"] = last_part(base)
    return {configuration.name: (json.dumps(content, indent=2) + "\n").encode()}


def _is_path(name: str) -> bool:
    """True for a path of any operating system. A hub id counts if a folder of this name exists."""
    return names_a_path(name) or ("/" in name and Path(name).exists())


def _local_paths(model: dict[str, object], settings: dict[str, object]) -> list[str]:
    named = [] if model["revision"] is not None else [model["name"], settings.get("model")]
    named.append(settings.get("chat_template"))
    for value in settings.values():
        if isinstance(value, dict) and "source" in value:
            named.append(value["source"])
    return [str(one) for one in named if one and _is_path(str(one))]
