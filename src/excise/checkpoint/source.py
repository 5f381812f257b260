"""Resolves a model's name (hub id, local folder or GGUF file) to files on disk."""

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
"""Number of blocks of a local weights file that are hashed, and bytes of a block."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Origin:
    """A commit of a model on the hub. name: its id."""

    name: str
    revision: str


def snapshot_origin(folder: Path) -> Origin | None:
    """The hub commit of a folder in the hub's cache (…/models--OWNER--NAME/snapshots/COMMIT), else None."""
    parts = folder.parent.parent.name.split("--")
    known = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    if not known or parts[0] != "models" or not 2 <= len(parts) <= 3:
        return None
    return Origin("/".join(parts[1:]), folder.name)


@dataclass(frozen=True)
class ModelSource:
    """A model's files.

    name: as the user gave it. gguf: the file name of a GGUF model in `folder`. revision: the hub commit, None
    for local files.
    """

    name: str
    folder: Path
    gguf: str | None
    revision: str | None

    @property
    def gguf_arguments(self) -> dict[str, str]:
        """Further arguments of transformers' `from_pretrained`."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    @property
    def origin(self) -> Origin | None:
        """The hub model and commit of the files; None if unknown."""
        if self.revision is not None:
            return Origin(self.name, self.revision)
        return None if self.gguf is not None else snapshot_origin(self.folder)

    @property
    def reference(self) -> str:
        """The hub id, or an absolute path."""
        if self.revision is not None:
            return self.name
        return str(self.folder if self.gguf is None else self.folder / self.gguf)

    @property
    def public_name(self) -> str:
        """A name for publication, without the path on this disk."""
        return Path(self.name).absolute().name if self.origin is None else self.origin.name

    @cached_property
    def digest(self) -> str:
        """The hub's revision; for local files a hash over names, sizes and evenly spaced blocks.

        Hashing a large checkpoint completely would take minutes.
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
        """The hash over the files that are loaded. Raises ModelError if a file is missing.

        It compares a hub model with a local folder, which has no revision.
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


def resolve(
    model: str, revision: str | None = None, *, code: bool = False, weights: bool = True
) -> ModelSource:
    """Find the files of `model` on disk, or download them from the hub.

    code: whether to download the model's Python files. weights: whether they are needed. Raises ModelError
    for an unknown model and a folder without weights, HubError if a download fails and the model is not
    cached.
    """
    path = expanded(model)
    if path.is_dir():
        source = ModelSource(model, path.resolve(), None, None)
    elif path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"{model}: no such file")
        return ModelSource(model, path.parent.resolve(), path.name, None)
    elif path.is_absolute() or names_a_path(model):
        raise ModelError(f"{model}: no such folder; give a folder, a .gguf file or a hub id")
    else:
        # Imported here because the hub's client takes long to import, and most models are on disk.
        from excise.checkpoint.download import download

        found = download(model, revision, weights=weights, code=code)
        source = ModelSource(model, found.folder, None, found.commit)
    folder = source.folder
    if not (folder / "config.json").is_file():
        if ggufs := sorted(folder.glob("*.gguf")):
            raise ModelError(f"{folder} holds GGUF files; name one of them, such as {ggufs[0]}")
        raise ModelError(f"{folder}: no config.json in it; not a model folder")
    if weights and not _has_weights(folder):
        raise ModelError(f"{folder}: no weights in it (*.safetensors or pytorch_model*.bin)")
    return source


def resolve_to_inspect(
    model: str, revision: str | None, *, weights: bool | None, code: bool = False
) -> tuple[ModelSource, bool]:
    """The files of a model that is to be looked at, and whether its weights are looked at too.

    weights: True wants them wherever they are, None if they are on this disk, False never; a folder without
    weights does without. code: as for `resolve`. Raises ModelError or HubError as `resolve` does.
    """
    path = expanded(model)
    if path.is_dir():
        wanted = weights is not False and _has_weights(path)
        return resolve(model, weights=wanted), wanted
    if path.suffix.lower() == ".gguf":
        if weights is False:
            raise ModelError(
                f"{model}: a GGUF file has no config.json; leave this setting out",
                setting="config_only",
                value="true",
            )
        return resolve(model), True
    if weights or path.is_absolute() or names_a_path(model):
        return resolve(model, revision, code=code), True
    cached = None if weights is False else _cached(model, revision)
    if cached is not None:
        return cached, True
    return resolve(model, revision, weights=False, code=code), False


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
