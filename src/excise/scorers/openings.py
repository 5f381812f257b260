"""The openings of refusals: a smooth stand-in for counting them.

A refusal is decided by its first few tokens, and a model has few ways to begin one. The probability that
an answer begins in one of them has gradients, and needs one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

LONGEST = 6
"""Tokens of an opening at most."""
MOST = 8
"""Openings that are followed at a time: the most frequent ones."""

Opening = tuple[int, ...]


def openings_of(answers: Sequence[Sequence[int]], refused: Sequence[bool]) -> list[Opening]:
    """How the refused ones among `answers` begin, the most frequent first, none the beginning of another.

    Answers are token ids that stop where the verdict fell.
    """
    found = Counter(
        tuple(answer[:LONGEST])
        for answer, no in zip(answers, refused, strict=True)
        if no and answer
    )
    return merged([opening for opening, _ in found.most_common()])


def merged(openings: Sequence[Opening]) -> list[Opening]:
    """The first `MOST` different ones, leaving out those that another one is the beginning of."""
    kept = [
        one
        for index, one in enumerate(openings)
        if one not in openings[:index]
        and not any(other != one and one[: len(other)] == other for other in openings)
    ]
    return kept[:MOST]


def stems_of(openings: Sequence[Opening]) -> list[Opening]:
    """What has to be run to get the probability of every opening: all but their last tokens, each once."""
    stems = sorted({one[:-1] for one in openings if len(one) > 1}, key=lambda stem: -len(stem))
    kept: list[Opening] = []
    for stem in stems:
        if not any(other[: len(stem)] == stem for other in kept):
            kept.append(stem)
    return kept


def opening_mass(
    first: Tensor, behind: Tensor | None, openings: Sequence[Opening], stems: Sequence[Opening]
) -> Tensor:
    """Probability that an answer begins in one of `openings`: [row].

    first: log-probabilities of the first answer token [row, vocabulary]. behind: of the tokens behind each
    token of each stem [row, stem, token, vocabulary]; None if no opening is longer than a token.
    """
    masses: list[Tensor] = []
    for opening in openings:
        total = first[:, opening[0]]
        if len(opening) > 1:
            assert behind is not None
            stem = next(
                index for index, one in enumerate(stems) if one[: len(opening) - 1] == opening[:-1]
            )
            for place, token in enumerate(opening[1:]):
                total = total + behind[:, stem, place, token]
        masses.append(total)
    return torch.stack(masses).logsumexp(0).exp()
