"""Forward passes over many prompts: common beginnings once, no padding at all.

Chat templates make all prompts begin alike. That beginning is run once and its cache shared; the rest
is run in groups of prompts of equal length, so that no row carries padding and no mask is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from excise.errors import TrialError

Tokens = Sequence[int]


@dataclass(frozen=True)
class Group:
    """Prompts of equal length that run together.

    rows: their indices. logits: [row, vocabulary] at the last prompt token. cache: keys and values of
    all their tokens, for decoding to go on from.
    """

    rows: tuple[int, ...]
    logits: Tensor
    cache: DynamicCache


@dataclass(frozen=True)
class Prefix:
    """Tokens that all prompts begin with, and their keys and values (one row); None if there are none."""

    length: int
    cache: DynamicCache | None

    def cache_for(self, rows: int) -> DynamicCache:
        """A cache that `rows` prompts can go on from; the prefix itself stays as it is."""
        if self.cache is None:
            return DynamicCache()
        shared: list[tuple[Tensor, Tensor]] = []
        for layer in self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            # Views: the first update concatenates, and only then is memory taken for each row.
            shared.append(
                (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
            )
        return DynamicCache(shared)


def common_prefix_length(prompts: Sequence[Tokens]) -> int:
    """How many leading tokens all `prompts` share, leaving at least one token to each of them."""
    # In dictionary order, what the first and the last share is shared by all between them.
    first, last = min(map(list, prompts)), max(map(list, prompts))
    shared = 0
    for left, right in zip(first, last, strict=False):
        if left != right:
            break
        shared += 1
    return min(shared, min(len(prompt) for prompt in prompts) - 1)


def equal_length_groups(
    prompts: Sequence[Tokens], rows: Sequence[int], limit: int
) -> list[tuple[int, ...]]:
    """`rows` in groups of prompts of one length and at most `limit` rows, longest first."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_length[len(prompts[row])].append(row)
    return [
        tuple(by_length[length][start : start + limit])
        for length in sorted(by_length, reverse=True)
        for start in range(0, len(by_length[length]), limit)
    ]


@torch.inference_mode()
def run_prefix(model: PreTrainedModel, tokens: Tokens) -> Prefix:
    """Run the common beginning of all prompts once."""
    if not tokens:
        return Prefix(0, None)
    cache = DynamicCache()
    ids = torch.tensor([list(tokens)], device=model.device)
    model(ids, past_key_values=cache, logits_to_keep=1)
    return Prefix(len(tokens), cache)


@torch.inference_mode()
def run_group(
    model: PreTrainedModel, prompts: Sequence[Tokens], rows: Sequence[int], prefix: Prefix
) -> Group:
    """Run prompts of equal length from the end of `prefix` on.

    Raises TrialError if a logit is not a number.
    """
    ids = torch.tensor([list(prompts[row][prefix.length :]) for row in rows], device=model.device)
    cache = prefix.cache_for(len(rows))
    logits = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    return Group(tuple(rows), require_numbers(logits), cache)


def run_all(model: PreTrainedModel, prompts: Sequence[Tokens], limit: int) -> Iterator[Group]:
    """Run all prompts in groups of at most `limit`, longest first."""
    if not prompts:
        return
    prefix = run_prefix(model, prompts[0][: common_prefix_length(prompts)])
    for rows in equal_length_groups(prompts, range(len(prompts)), limit):
        yield run_group(model, prompts, rows, prefix)


def first_token_log_probabilities(
    model: PreTrainedModel, prompts: Sequence[Tokens], limit: int
) -> Tensor:
    """Log-probabilities of the first answer token: [prompt, vocabulary], float32, on the host.

    Raises TrialError if a logit is not a number.
    """
    result: Tensor | None = None
    for group in run_all(model, prompts, limit):
        values = group.logits.to(torch.float32).log_softmax(-1).cpu()
        if result is None:
            result = torch.empty(len(prompts), values.shape[-1])
        result[list(group.rows)] = values
    if result is None:
        raise ValueError("no prompts")
    return result


def require_numbers(logits: Tensor) -> Tensor:
    """`logits` if all of them are finite; raises TrialError otherwise."""
    if not torch.isfinite(logits).all():
        raise TrialError("logits are not numbers (NaN or infinite)")
    return logits
