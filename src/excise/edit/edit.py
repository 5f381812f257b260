"""The edit file: directions, strengths and how to apply them. Small, versioned, plain safetensors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from excise.errors import RunError
from excise.files import replacing
from excise.kinds import KINDS, Kind

FORMAT = 2
"""2 since writers of several matrices can carry an operator for each of them."""


@dataclass(frozen=True)
class Edit:
    """One rank-1 operator for each writer: y' = y − α u (vᵀ y).

    writers: module names inside the model, one a row of the tensors. An edit of several directions names
    each writer several times; its operators apply one after the other, in the order of the rows.
    u, v: [writer, d] float32, vᵀu = 1 in each row. strengths: [writer] float32, the α.
    per_matrix: writers of several matrices (experts) for whose each stored matrix the row-normalised
    operator is made anew, from the direction that stands in u and v; on the sum of their outputs, which
    is all that a virtual edit sees, u and v hold as they are.
    parameters: the search parameters it was made from; facts: base model, digest, figures.
    """

    kind: Kind
    writers: tuple[str, ...]
    u: Tensor
    v: Tensor
    strengths: Tensor
    per_matrix: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.writers)
        if self.u.shape != self.v.shape or self.u.shape[0] != count:
            raise ValueError(f"u {tuple(self.u.shape)}, v {tuple(self.v.shape)}, {count} writers")
        if self.strengths.shape != (count,):
            raise ValueError(f"strengths {tuple(self.strengths.shape)}, {count} writers")

    @property
    def changed(self) -> tuple[str, ...]:
        """The writers of non-zero strength, each once."""
        pairs = zip(self.writers, self.strengths.tolist(), strict=True)
        return tuple(dict.fromkeys(writer for writer, strength in pairs if strength != 0))

    @property
    def directions(self) -> int:
        """How many operators a writer has at most: the rank of the edit."""
        return max(Counter(self.writers).values(), default=0)

    def save(self, path: Path) -> None:
        """Write the edit; the file appears under `path` whole or not at all. Raises SaveError."""
        header = {
            "format": FORMAT,
            "kind": self.kind,
            "writers": list(self.writers),
            "per_matrix": list(self.per_matrix),
            "parameters": dict(self.parameters),
            "facts": dict(self.facts),
        }
        # Copies: u and v may be one tensor, or a row repeated, which a file cannot hold.
        tensors = {name: getattr(self, name).clone() for name in ("u", "v", "strengths")}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"excise": json.dumps(header)})


def load_edit(path: Path) -> Edit:
    """Read an edit file. Raises RunError if it is missing, damaged, or of a newer format."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["excise"])
            if header["format"] > FORMAT:
                raise RunError(
                    f"{path}: edit format {header['format']} is newer than this excise reads "
                    f"({FORMAT}); install a newer excise"
                )
            u, v, strengths = (file.get_tensor(name) for name in ("u", "v", "strengths"))
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such edit file") from error
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise RunError(f"{path}: not an edit file, or damaged ({error})") from error
    if header["kind"] not in KINDS:
        raise RunError(f"{path}: unknown kind {header['kind']!r}; known are {', '.join(KINDS)}")
    return Edit(
        kind=header["kind"],
        writers=tuple(header["writers"]),
        u=u.to(torch.float32),
        v=v.to(torch.float32),
        strengths=strengths.to(torch.float32),
        per_matrix=tuple(header.get("per_matrix", ())),
        parameters=header["parameters"],
        facts=header["facts"],
    )
