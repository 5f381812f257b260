"""A folder that is to be uploaded: what it is, which files it has, whether they are whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from excise.checkpoint.folder import open_checkpoint
from excise.checkpoint.tensors import read_safetensors
from excise.errors import ModelError, SaveError
from excise.reproduce.record import NAME, Reproduction, as_text, read_reproduction
from excise.system.json_files import read_json_object
from excise.system.paths import last_part, names_a_path

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class Upload:
    """Files by their names in the repository. contents: of those that are not sent as they lie here."""

    made: Literal["model", "adapter"]
    files: dict[str, Path]
    contents: dict[str, bytes]
    record: Reproduction | None

    def size(self, name: str) -> int:
        """Bytes that will be sent of a file."""
        return (
            len(self.contents[name]) if name in self.contents else self.files[name].stat().st_size
        )

    def source(self, name: str) -> Path | bytes:
        """The file, or what is sent in place of it."""
        return self.contents.get(name, self.files[name])

    def sha256(self, name: str) -> str:
        """Hash of what is sent, as the hub names large files."""
        if name in self.contents:
            return hashlib.sha256(self.contents[name]).hexdigest()
        with self.files[name].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def git_hash(self, name: str) -> str:
        """Hash of what is sent, as git, and so the hub, names small files."""
        content = self.contents.get(name) or self.files[name].read_bytes()
        return hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()


def open_upload(folder: Path, *, hardware: bool = True) -> Upload:
    """Look a folder over before anything is sent. Raises SaveError with what is wrong.

    Hidden files stay behind. `reproduce.json` and the adapter's configuration are sent without the folders
    of this disk that stand in them; hardware: False leaves out what the model ran on.
    """
    if not folder.is_dir():
        raise SaveError(f"{folder}: no such folder; give one that excise saved, or a run directory")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SaveError(
                f"{path}: is a link that leads out of the folder; replace it by the file itself"
            )
        if path.is_file():
            files[name] = path
    made = _kind(folder, files)
    _require_whole(folder, made, files)
    if "README.md" not in files:
        raise SaveError(
            f"{folder}: has no README.md to say what it is; save it with excise, or write one"
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
            # Whatever else lies beside the weights that are loaded goes up too.
            if name.endswith(".safetensors"):
                read_safetensors(path)
    except ModelError as error:
        message = str(error).replace("download the checkpoint again", "save the model again")
        raise SaveError(message.replace("download it again", "save it again")) from error


def public_record(path: Path, *, hardware: bool) -> bytes:
    """A `reproduce.json` in which files and folders of a disk are named by their last part only.

    Where things lie on somebody's disk is nobody else's concern; their digests tell which they were.
    hardware: False leaves that out.
    """
    content = read_json_object(path, SaveError)
    if not hardware:
        content["circumstances"].pop("hardware", None)
    places = sorted(set(_places(content["model"], content["settings"])), key=len, reverse=True)
    text = as_text(content)
    for place in places:
        mine, shown = (
            json.dumps(one, ensure_ascii=False)[1:-1] for one in (place, last_part(place))
        )
        text = text.replace(mine, shown)
    return text.encode()


def _base_by_name(configuration: Path) -> dict[str, bytes]:
    """The adapter's configuration with a local base model named by its folder's last part; else nothing."""
    content = read_json_object(configuration, SaveError)
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise SaveError(
            f"{configuration}: damaged: names no base_model_name_or_path; save the adapter again"
        )
    if not _is_place(base):
        return {}
    content["base_model_name_or_path"] = last_part(base)
    return {configuration.name: (json.dumps(content, indent=2) + "\n").encode()}


def _is_place(name: str) -> bool:
    """True for a path, in any system's spelling; a hub id is one only if a folder here has its name."""
    return names_a_path(name) or ("/" in name and Path(name).exists())


def _places(model: dict[str, object], settings: dict[str, object]) -> list[str]:
    """Paths that stand in a record: of a local model, of prompt files, of a chat template."""
    named = [] if model["revision"] is not None else [model["name"], settings.get("model")]
    named.append(settings.get("chat_template"))
    for value in settings.values():
        if isinstance(value, dict) and "source" in value:
            named.append(value["source"])
    return [str(one) for one in named if one and _is_place(str(one))]
