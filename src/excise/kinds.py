"""The kinds of operator: what each is, what it is made from, where it comes from.

A new kind is a row here and a function in `excise.operators.kinds`. Nothing heavy may be imported in
here: the command line's help is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "discriminant_weighted",
    "discriminant",
    "discriminant_centred",
    "discriminant_answers",
    "leace",
    "orthogonal",
    "row_normalised",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

EditKind = Kind | Literal["recovered"]
"""A kind of an edit file: one that was made, or one that was read off two checkpoints."""

Statistics = Literal["residual", "weighted", "tokens", "answers", "ends"]
"""What a kind is made from.

residual: the residual stream behind each layer, at the last prompt token. The others are a writer's own
output: its second moment over all tokens of control prompts; the same with the tokens of the answers to
them; or over the last prompt tokens of both sets.
"""


@dataclass(frozen=True)
class KindFacts:
    """What there is to say of a kind. ridge: it has a ridge ρ to choose. centred: moments about the mean."""

    text: str
    source: str
    statistics: Statistics
    ridge: bool = False
    centred: bool = False

    @property
    def of_residuals(self) -> bool:
        """True if it uses directions of the residual stream, not of each writer's own output."""
        return self.statistics == "residual"


_FISHER = "ridge-regularised form of Fisher 1936, Annals of Eugenics 7, as an oblique projector"

FACTS: Mapping[Kind, KindFacts] = {
    "discriminant_weighted": KindFacts(
        "the discriminant with S weighted as damage is measured: half of it from the last tokens of "
        "control prompts, where answers begin, half from all tokens of the prompts and their answers",
        _FISHER,
        "weighted",
        ridge=True,
    ),
    "discriminant": KindFacts(
        "u = δ, v = (S + ρ·mean(diag S)·I)⁻¹ δ from each writer's own output, S its second moment over "
        "all tokens of control prompts",
        _FISHER,
        "tokens",
        ridge=True,
    ),
    "discriminant_centred": KindFacts(
        "the discriminant with the covariance in place of the second moment",
        _FISHER,
        "tokens",
        ridge=True,
        centred=True,
    ),
    "discriminant_answers": KindFacts(
        "the discriminant with the tokens of the model's answers to control prompts in S",
        _FISHER,
        "answers",
        ridge=True,
    ),
    "leace": KindFacts(
        "the whitened projector W⁺ P W of each writer's own output, W = Σ^(−1/2) of the last prompt tokens",
        "Belrose et al. 2023, arXiv 2306.03819, theorem 4.3",
        "ends",
        centred=True,
    ),
    "orthogonal": KindFacts(
        "u = v = r, the direction of each layer",
        "Arditi et al. 2024, arXiv 2406.11717",
        "residual",
    ),
    "row_normalised": KindFacts(
        "the projector of the matrix with rows of length 1",
        "the orthogonal kind on the row-normalised matrix",
        "residual",
    ),
}

RECOVERED = KindFacts(
    "u and v read off the difference of two checkpoints", "`excise diff`", "residual"
)


def facts_of(kind: EditKind) -> KindFacts:
    """What there is to say of the kind of an edit file."""
    return RECOVERED if kind == "recovered" else FACTS[kind]
