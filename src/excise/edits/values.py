"""The values of an edit: an operator and a strength for each writer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import FiniteFloat
from torch import Tensor

from excise.edits.base import Base
from excise.kinds import EditKind
from excise.validation import checked


# Tensors cannot be compared to one truth value, so an edit equals only itself.
@dataclass(frozen=True, eq=False)
class EditValues:
    """A rank-1 operator for each writer: y' = y − α u (vᵀ y).

    writers: module names, one for each row of the tensors. An edit of several directions repeats each writer;
    its operators apply in the order of the rows.
    u, v: [writer, d] float32, vᵀu = 1 in each row. strengths: [writer] float32, the α.
    per_matrix: writers of several matrices (experts), each of which gets its own row-normalised operator from
    the direction in u and v. A virtual edit sees only the sum of their outputs and applies u and v
    themselves. parameters: of the search. facts: figures and their conditions, see
    docs/reference/edit-file.md. base: the model of the edit. settings_digest: of the run that found it.
    """

    kind: EditKind
    writers: tuple[str, ...]
    u: Tensor
    v: Tensor
    strengths: Tensor
    per_matrix: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    base: Base | None = None
    settings_digest: str | None = None

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
        """The highest number of operators of a writer, which is the rank of the edit."""
        return max(Counter(self.writers).values(), default=0)

    def scaled(self, factor: float) -> Self:
        """The same edit with every strength multiplied by `factor`, a finite number. Raises SettingsError."""
        return replace(self, strengths=self.strengths * checked("factor", factor, FiniteFloat))
