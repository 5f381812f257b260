"""KL divergence between the original and the edited model's next-token distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.devices.transfers import as_float64, float64_device
from excise.engine.distributions import Distributions
from excise.engine.prefill import all_finite, gather_finite

Reduce = Callable[[Tensor, Tensor], Tensor]
"""Maps log-probabilities of the original and of the edited model, both [token, vocabulary] float32, to one
figure for each token [token]. Each token is reduced alone: rows are of different answers."""

_AT_ONCE = 2**22
"""Log-probabilities that an accelerator computes with at a time; each intermediate takes 32 MiB."""

ANSWER_TOKENS = 32
"""KL is averaged over so many first tokens of the original model's answers; answers may be shorter."""


@dataclass(frozen=True)
class AnswerTokens:
    """Over how many tokens of an answer KL was averaged: in the shortest answer, and in the longest."""

    least: int
    most: int

    @classmethod
    def of(cls, answers: Sequence[Sized]) -> AnswerTokens:
        """The lengths of `answers`. Raises ValueError if `answers` is empty."""
        lengths = [len(answer) for answer in answers]
        return cls(min(lengths), max(lengths))

    @property
    def title(self) -> str:
        """The name of the figure: `KL, mean of 32 answer tokens`, or of up to 32."""
        number = f"{self.most}" if self.least == self.most else f"up to {self.most}"
        return f"KL, mean of {number} answer token{'s' if self.most > 1 else ''}"


UNRECORDED = AnswerTokens(1, ANSWER_TOKENS)
"""For figures in old records, which lack the number of tokens."""


def kl_divergence(original: Tensor, edited: Tensor) -> Tensor:
    """KL(original ‖ edited) of each row, in nats, float64: Σ p (log p − log q), never less than 0.

    Values that rounding makes negative are 0. original, edited: log-probabilities [prompt, vocabulary]. The
    device of `edited` computes, or the host if that device lacks float64. Source: Kullback and Leibler 1951.
    """
    place = float64_device(edited.device)
    original, edited = original.to(place), edited.to(place)
    # In float64, all rows of a large vocabulary together would take gigabytes. An accelerator takes several
    # rows at a time, because each call costs a launch. A CPU takes one row, which fits into its caches and
    # whose sum is the same for any number of threads.
    rows = 1 if place.type == "cpu" else max(1, _AT_ONCE // original.shape[1])
    pieces = zip(torch.split(original, rows), torch.split(edited, rows), strict=True)
    found = torch.cat([_rows(as_float64(p), as_float64(q)) for p, q in pieces])
    # Adding 0 removes the sign of a negative zero.
    return found.clamp_min(0.0) + 0.0


def along_answers(
    original: Tensor, edited: Tensor, lengths: Sequence[int], reduce: Reduce
) -> list[Tensor]:
    """A comparison at every token of each answer: one tensor [token] for each row, float64.

    original, edited: log-probabilities [row, token, vocabulary]. lengths: tokens of each answer, which are
    the last of its row.
    """
    p, q = (
        torch.cat([row[-length:] for row, length in zip(each, lengths, strict=True)])
        for each in (original, edited)
    )
    return list(torch.split(as_float64(reduce(p, q)), list(lengths)))


@torch.no_grad()
def comparisons(
    pairs: Iterable[tuple[Tensor, Distributions]], reduces: Sequence[Reduce] = (kl_divergence,)
) -> list[list[Tensor]]:
    """Several comparisons at every token of each prompt's answer: for each, one tensor [token] a prompt.

    pairs: for groups of prompts, the original model's log-probabilities and the edited model's distributions.
    Only one group is in memory at a time, because whole vocabularies are large. The figures leave the device
    together, after the last group has run. Raises TrialError if a logit is not finite.
    """
    rows: list[int] = []
    found: list[list[Tensor]] = [[] for _ in reduces]
    finite: list[Tensor] = []
    for original, edited in pairs:
        rows += edited.rows
        for figures, reduce in zip(found, reduces, strict=True):
            figures += along_answers(original, edited.log_probabilities, edited.lengths, reduce)
        finite.append(all_finite(edited.log_probabilities))
        finite.append(all_finite(original).to(finite[0].device))
    together = gather_finite([each for figures in found for each in figures], finite)
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return [
        [together[start + place] for place in order] for start in range(0, len(together), len(rows))
    ]


def _rows(p_log: Tensor, q_log: Tensor) -> Tensor:
    # 0 · log 0 is 0: a token of probability 0 adds nothing, whatever its probability after the edit.
    return torch.where(p_log.isneginf(), 0.0, p_log.exp() * (p_log - q_log)).sum(-1)
