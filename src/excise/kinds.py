"""The kinds of operator: definitions and sources.

This module imports no slow library, because `excise --help` needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["discriminant", "orthogonal", "row_normalised"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Centre = Literal["mean", "geometric_median"]
"""The centre of a prompt set's activations, from which directions of the residual stream are computed."""

FormerKind = Literal["discriminant_tokens", "discriminant_centred", "discriminant_answers", "leace"]
EditKind = Kind | FormerKind | Literal["recovered"]
"""The kind in an edit file: of the search, of former versions, or "recovered" by `excise diff`."""


@dataclass(frozen=True)
class KindFacts:
    """A kind's definition, and its source in the literature."""

    text: str
    source: str


_FISHER = "ridge-regularised form of Fisher 1936, Annals of Eugenics 7, as an oblique projector"

FACTS: Mapping[EditKind, KindFacts] = {
    "discriminant": KindFacts(
        "u = δ, v = (S + ρ·mean(diag S)·I)⁻¹ δ from each writer's own output; half of its second moment S is "
        "from the last tokens of control prompts, where answers begin, half from all tokens of the prompts "
        "and their answers",
        _FISHER,
    ),
    "orthogonal": KindFacts(
        "u = v = r, the direction of each layer",
        "Arditi et al. 2024, arXiv 2406.11717",
    ),
    "row_normalised": KindFacts(
        "the projector of the matrix with rows of length 1",
        "the orthogonal kind on the row-normalised matrix",
    ),
    "discriminant_tokens": KindFacts(
        "the discriminant with S over all tokens of control prompts; excise no longer searches this kind",
        _FISHER,
    ),
    "discriminant_centred": KindFacts(
        "the discriminant with the covariance over all tokens of control prompts in place of S; excise no "
        "longer searches this kind",
        _FISHER,
    ),
    "discriminant_answers": KindFacts(
        "the discriminant with S over all tokens of control prompts and their answers; excise no longer "
        "searches this kind",
        _FISHER,
    ),
    "leace": KindFacts(
        "the whitened projector W⁺ P W of each writer's own output, W = Σ^(−1/2) of the last prompt tokens; "
        "excise no longer searches this kind",
        "Belrose et al. 2023, arXiv 2306.03819, theorem 4.3",
    ),
    "recovered": KindFacts(
        "u and v computed from the difference of two checkpoints", "`excise diff`"
    ),
}

_RENAMED = {"discriminant_weighted": "discriminant", "discriminant": "discriminant_tokens"}


def of_residuals(kind: Kind) -> bool:
    """True if a kind uses directions of the residual stream, not of each writer's own output."""
    return kind != "discriminant"


def current_name(former: str) -> str:
    """The present name of a kind from a file of an older version (up to run format 5 and edit format 4)."""
    return _RENAMED.get(former, former)


def former_name(kind: Kind) -> str:
    """The name of a present kind in those versions."""
    return next((former for former, now in _RENAMED.items() if now == kind), kind)


def with_current_kind(parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters of a trial that those versions wrote, with the present name of its kind."""
    kind = parameters.get("kind")
    return {**parameters, "kind": current_name(kind)} if isinstance(kind, str) else dict(parameters)
