"""Where a model lies: a hub id, a local folder or a GGUF file, resolved to files on this disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from excise.errors import ModelError
from excise.system.paths import expanded, names_a_path

_BLOCKS, _BLOCK = 64, 16384
"""Blocks, and bytes of each, that are hashed of a local weights file."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Origin:
    """A commit of a model on the hub. name: its id."""

    name: str
    revision: str


def snapshot_origin(folder: Path) -> Origin | None:
    """The commit that a folder in the cache of the hub's client holds; None for any other folder.

    Its place tells: …/models--OWNER--NAME/snapshots/COMMIT.
    """
    parts = folder.parent.parent.name.split("--")
    known = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    if not known or parts[0] != "models" or not 2 <= len(parts) <= 3:
        return None
    return Origin("/".join(parts[1:]), folder.name)


@dataclass(frozen=True)
class ModelSource:
    """A model's files.

    name: as the user gave it. folder: where the files lie. gguf: file name of a GGUF model in it.
    revision: the hub commit that was used, None for local files.
    """

    name: str
    folder: Path
    gguf: str | None
    revision: str | None

    @property
    def gguf_arguments(self) -> dict[str, str]:
        """What transformers' `from_pretrained` needs beside the folder."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    @property
    def origin(self) -> Origin | None:
        """The model on the hub that the files are a commit of; None if that is not known.

        A folder in the cache of the hub's client is one, whatever path it was named by.
        """
        if self.revision is not None:
            return Origin(self.name, self.revision)
        return None if self.gguf is not None else snapshot_origin(self.folder)

    @property
    def reference(self) -> str:
        """A name that leads here from any working directory: the hub id, or an absolute path."""
        if self.revision is not None:
            return self.name
        return str(self.folder if self.gguf is None else self.folder / self.gguf)

    @property
    def public_name(self) -> str:
        """The name to tell others: where a model lies on somebody's disk is nobody else's concern."""
        return Path(self.name).absolute().name if self.origin is None else self.origin.name

    @cached_property
    def digest(self) -> str:
        """What tells this checkpoint from another one of the same name.

        The hub's revision; for local files a hash over names, sizes and blocks from all over them, since
        reading all of a large checkpoint would take minutes.
        """
        if self.revision is not None:
            return self.revision
        if self.gguf is not None:
            files = [self.folder / self.gguf]
        else:
            files = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("*.bin"))
        return _blocks_digest(files)

    @cached_property
    def contents(self) -> str:
        """The same hash of a hub model's files too, and only of those that are loaded.

        It tells a hub model from a folder, which has no revision. Raises ModelError if a file is missing.
        """
        from excise.checkpoint.folder import weight_files

        names = weight_files(self.folder)[0] if self.gguf is None else [self.gguf]
        return _blocks_digest([self.folder / name for name in names])

    @cached_property
    def index_digest(self) -> str:
        """A hash over names, shapes and data types of all tensors. Raises ModelError if a file is damaged."""
        from excise.checkpoint.index import checkpoint_index, index_digest

        return index_digest(checkpoint_index(self.folder, self.gguf))


def _blocks_digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(block * size // _BLOCKS)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def resolve(model: str, revision: str | None = None, *, code: bool = False) -> ModelSource:
    """Find the files of `model`, from the hub if it is not on this disk.

    code: whether Python files of its own are downloaded too, for a user who allows them to run. Raises
    ModelError if there is no such model or its folder holds no weights, HubError if the hub is out of reach
    and the model is not cached, or with what else stopped a download.
    """
    path = expanded(model)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"{model}: no such file")
        return ModelSource(model, path.parent.resolve(), path.name, None)
    if path.is_dir():
        return _local(model, path.resolve())
    if path.is_absolute() or names_a_path(model):
        raise ModelError(f"{model}: no such folder; give a folder, a .gguf file or a hub id")
    return _from_hub(model, revision, code=code)


def resolve_to_inspect(
    model: str, revision: str | None, *, weights: bool | None, code: bool = False
) -> tuple[ModelSource, bool]:
    """The files of a model that is to be looked at, and whether its weights are looked at too.

    weights: True wants them wherever they are, None if they are on this disk, False never; a folder without
    weights does without. code: as for `resolve`. Raises ModelError or HubError as `resolve` does.
    """
    path = expanded(model)
    if path.is_dir():
        folder = path.resolve()
        wanted = weights is not False and _has_weights(folder)
        return _local(model, folder, weights=wanted), wanted
    if path.suffix.lower() == ".gguf":
        if weights is False:
            raise ModelError(f"{model}: a GGUF file has no config.json; leave out --config-only")
        return resolve(model), True
    if weights or path.is_absolute() or names_a_path(model):
        return resolve(model, revision, code=code), True
    cached = None if weights is False else _cached(model, revision)
    if cached is not None:
        return cached, True
    return _from_hub(model, revision, weights=False, code=code), False


def _cached(model: str, revision: str | None) -> ModelSource | None:
    """The model in the hub's cache, if it is there with all its weights."""
    from excise.checkpoint.download import is_whole
    from excise.hub_access.cache import cached_snapshot

    found = cached_snapshot(model, "model", revision)
    if found is None or not is_whole(found.folder, weights=True):
        return None
    return ModelSource(model, found.folder, None, found.commit)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _local(name: str, folder: Path, *, weights: bool = True) -> ModelSource:
    if not (folder / "config.json").is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        if ggufs:
            raise ModelError(f"{folder} holds GGUF files; name one of them, such as {ggufs[0]}")
        raise ModelError(f"{folder}: no config.json in it; not a model folder")
    if weights and not _has_weights(folder):
        raise ModelError(f"{folder}: no weights in it (*.safetensors or pytorch_model*.bin)")
    return ModelSource(name, folder, None, None)


def _from_hub(
    name: str, revision: str | None, *, weights: bool = True, code: bool = False
) -> ModelSource:
    # Imported here because the hub's client takes a while, and most models lie on this disk.
    from excise.checkpoint.download import download

    found = download(name, revision, weights=weights, code=code)
    local = _local(name, found.folder, weights=weights)
    return ModelSource(name, local.folder, None, found.commit)
