"""The edit and its file, a small, versioned safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from excise.edits.base import Base
from excise.edits.values import EditValues
from excise.edits.virtual import VirtualEdits
from excise.errors import UNREADABLE, RunError, translated
from excise.kinds import FACTS, KINDS, current_name, with_current_kind
from excise.system.files import require_fetched, write_bytes
from excise.system.json_files import parse_json
from excise.system.paths import expanded
from excise.validation import checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 5
"""Format 2: operators for each matrix of a writer. 3: keys for the base model, its index and the settings'
digest. 4: a checksum. 5: `discriminant_weighted` is called `discriminant`, and former kinds have other names.
See docs/reference/edit-file.md."""

_TENSORS = ("u", "v", "strengths")
_CHECKED_SINCE = 4
_RENAMED_IN = 5
_CHECKSUM = "sha256"

_FACTS_OF_BASE = frozenset(("model", "model_digest"))
"""Facts of files of format 2, which are now fields of the base."""


class Edit(EditValues):
    """One rank-1 operator for each writer: y' = y − α u (vᵀ y). `EditValues` describes the fields."""

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Apply the edit to a model in memory while a `with` block runs; yields the model.

        Hooks edit the outputs of the writers; no weight is read or written. At the end of the block the model
        is as it was, bit for bit. Raises ModelError if the model lacks a writer of the edit, or if its
        residual stream has another width.
        """
        # Imported here, because reading an edit file should not import transformers.
        from excise.edits.fitting import fitted_to_modules

        edit = fitted_to_modules(self, model)
        with VirtualEdits(model, edit.writers) as scope:
            scope.use(edit)
            yield model

    def to_peft(
        self,
        folder: str | Path,
        model: PreTrainedModel | str | Path | None = None,
        *,
        writers: tuple[str, ...] = (),
        trust_remote_code: bool = False,
        force: bool = False,
    ) -> None:
        """Write the edit as a LoRA adapter, which `peft.PeftModel.from_pretrained` loads.

        folder: a new folder. model: the original model in memory, or the name of its files (hub id or local
        folder); without it, the files of `base`, downloaded from the hub if necessary. Only the matrices that
        the edit changes are read from files. writers: the further writers, "PATTERN=COMPONENT", that the edit
        was made with. trust_remote_code: build the model with its own code. force: accept files of another
        model.

        Raises SaveError if the files are of another model than the edit was made for, if the weights are
        packed, or if an adapter cannot hold the edit; ModelError if the model lacks a writer.
        """
        from excise.edits.peft_folder import to_peft

        writers = checked("writers", writers, tuple[str, ...])
        to_peft(self, expanded(folder), model, writers, trust_remote_code, force)

    def save(self, path: str | Path) -> None:
        """Write the edit file, completely or not at all. Raises SaveError."""
        header = {
            "format": FORMAT,
            "kind": self.kind,
            "base": asdict(self.base) if self.base else None,
            "settings_digest": self.settings_digest,
            "writers": list(self.writers),
            "per_matrix": list(self.per_matrix),
            "parameters": dict(self.parameters),
            "facts": dict(self.facts),
        }
        # safetensors cannot store tensors that share memory, as u and v may.
        tensors = {name: getattr(self, name).clone().contiguous() for name in _TENSORS}
        # One metadata key, because safetensors writes several keys in random order.
        checked = {**header, _CHECKSUM: _checksum(header, tensors)}
        write_bytes(expanded(path), save(tensors, metadata={"excise": json.dumps(checked)}))

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Read an edit file of this or an older format.

        Raises RunError if it is missing, damaged, or of a newer format.
        """
        path = expanded(path)
        if not path.exists():
            raise RunError(f"{path}: no such edit file")
        require_fetched(path, RunError)
        what = f"{path}: not an edit file, or damaged"
        with (
            translated(RunError, what, SafetensorError, OSError, *UNREADABLE),
            safe_open(path, framework="pt") as file,
        ):
            header = parse_json((file.metadata() or {})["excise"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            version = _version(path, header)
            found = header.pop(_CHECKSUM, None)
            checked = version >= _CHECKED_SINCE or found is not None
            if checked and found != _checksum(header, tensors):
                raise RunError(
                    f"{path}: damaged: its contents do not match its checksum; use another copy of it"
                )
            if version < _RENAMED_IN:
                header["kind"] = current_name(header["kind"])
                header["parameters"] = with_current_kind(header["parameters"])
            if (kind := header["kind"]) not in FACTS:
                raise RunError(f"{path}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
            return _edit_of(header, tensors)


def _edit_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    """The edit that a file holds. Raises KeyError, TypeError, ValueError or AttributeError."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("some of its numbers are not finite")
    facts = dict(header["facts"])
    base = Base(**header["base"]) if header.get("base") else Base.of_facts(facts)
    # Copies are aligned in memory. Sums depend on the alignment in their last bit, and an edit from a file
    # must give the same weights as the edit in memory.
    u, v, strengths = (tensors[name].to(torch.float32, copy=True) for name in _TENSORS)
    return Edit(
        kind=header["kind"],
        writers=_names(header["writers"]),
        u=u,
        v=v,
        strengths=strengths,
        per_matrix=_names(header.get("per_matrix", [])),
        parameters=dict(header["parameters"]),
        facts={name: value for name, value in facts.items() if name not in _FACTS_OF_BASE},
        base=base,
        settings_digest=header.get("settings_digest"),
    )


def _names(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("writers are not a list of names")
    return tuple(listed)


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header as JSON, then name, type, shape and bytes of each tensor."""
    found = hashlib.sha256(json.dumps(header).encode())
    for name in _TENSORS:
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _version(path: Path, header: Mapping[str, Any]) -> int:
    """The format of the file. Raises RunError if it is newer than this version reads."""
    version = header["format"]
    if not isinstance(version, int):
        raise TypeError(f"format {version!r} is not a number")
    if version > FORMAT:
        raise RunError(
            f"{path}: edit format {version} is newer than this excise reads ({FORMAT}); install a newer "
            "excise"
        )
    return version
