"""Forward passes over many prompts: common beginnings once, hardly any padding.

Chat templates make all prompts begin alike. That beginning is run once and its cache shared; the rest
is run in groups of prompts of equal or almost equal length. Models that this is not exact for take the
plain path: whole prompts, groups of equal length, no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from excise.devices.device import input_device
from excise.engine.assignment import ALONE, Assignment
from excise.engine.capability import accepts, slots_are_exact
from excise.errors import TrialError

Tokens = Sequence[int]

NO_NUMBERS = "logits are not numbers (NaN or infinite)"


@dataclass(frozen=True)
class Group:
    """Prompts that run together.

    rows: their indices. logits: [row, token, vocabulary] at the last prompt tokens. cache: keys and values of
    all their tokens, for decoding to go on from: the prefix, then padding, then the rest of each prompt;
    None on the plain path, and where none was wanted. present: [row, column] bool, which columns of the cache
    are no padding.
    """

    rows: tuple[int, ...]
    logits: Tensor
    cache: DynamicCache | None
    present: Tensor | None


class _Passing(DynamicLayer):  # type: ignore[misc]
    """Keeps the keys and values that it began with; those that come are seen behind them, and let go."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Those of the prefix and of the pass."""
        if not self.is_initialized:
            return key_states, value_states
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


@dataclass(frozen=True)
class Prefix:
    """Tokens that all prompts begin with, and their keys and values, in one row.

    cache: None if there are no such tokens.
    """

    length: int
    cache: DynamicCache | None

    def cache_for(self, rows: int, *, kept: bool) -> DynamicCache:
        """A cache that so many prompts can go on from; the prefix itself stays as it is.

        kept: whether it keeps what comes. If not, one layer's keys and values are held at a time.
        """
        cache = DynamicCache()
        cache.layer_class_to_replicate = DynamicLayer if kept else _Passing
        for layer in () if self.cache is None else self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            own = cache.layer_class_to_replicate()
            own.lazy_initialization(layer.keys, layer.values)
            # Views: an update concatenates, and only then is memory taken for each row.
            own.keys, own.values = (
                one.expand(rows, -1, -1, -1) for one in (layer.keys, layer.values)
            )
            cache.layers.append(own)
        return cache


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


def length_groups(
    prompts: Sequence[Tokens], rows: Sequence[int], limit: int, slack: int = 0
) -> list[tuple[int, ...]]:
    """`rows` in groups of at most `limit`, longest first, lengths in a group at most `slack` apart."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: -len(prompts[row])):
        fits = groups and len(groups[-1]) < limit
        if fits and len(prompts[groups[-1][0]]) - len(prompts[row]) <= slack:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [tuple(group) for group in groups]


_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def padding_slack(model: PreTrainedModel, prompts: Sequence[Tokens], prefix: Prefix) -> int:
    """How many tokens of padding a prompt may carry for larger groups: a quarter of what it has itself.

    None without a common beginning, because padding would then have nothing to attend to; none either
    where attention reaches less far than a prompt, because padding would take up part of its window.
    """
    longest = max(len(prompt) for prompt in prompts)
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in _WINDOWS]
    if prefix.length == 0 or any(isinstance(width, int) and width < longest for width in windows):
        return 0
    return (longest - prefix.length) // 4


def right_aligned(lengths: Sequence[int]) -> Tensor:
    """Which columns are a row's own, if rows of these lengths end in the same one: [row, column] bool."""
    padding = max(lengths) - torch.tensor(lengths).unsqueeze(1)
    return torch.arange(max(lengths)) >= padding


def run_prefix(model: PreTrainedModel, tokens: Tokens, assignment: Assignment = ALONE) -> Prefix:
    """Run the common beginning of all prompts; an empty prefix where it cannot be shared."""
    if not tokens or not slots_are_exact(model):
        return Prefix(0, None)
    cache = DynamicCache()
    ids = torch.tensor([list(tokens)], device=input_device(model))
    assignment.before_pass(1)
    with assignment.around(cache, None, [len(tokens)]):
        model(ids, past_key_values=cache, logits_to_keep=_last(1, ids))
    return Prefix(len(tokens), cache)


def run_group(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    rows: Sequence[int],
    prefix: Prefix,
    keep: int = 1,
    assignment: Assignment = ALONE,
    *,
    cached: bool = True,
    checked: bool = True,
) -> Group:
    """Run prompts from the end of `prefix` on; shorter ones are padded between prefix and prompt.

    keep: number of last tokens of each prompt whose logits are wanted, at most what the shortest has behind
    the prefix. cached: whether keys and values are wanted, which take as much memory as the rows' slots do.
    checked: whether to wait for the logits and raise TrialError if one is not a number.
    """
    assignment.before_pass(len(rows))
    if not slots_are_exact(model):
        whole = torch.tensor([list(prompts[row]) for row in rows], device=input_device(model))
        logits = last_logits(model, whole, keep)
        return Group(tuple(rows), require_numbers(logits) if checked else logits, None, None)
    suffixes = [list(prompts[row][prefix.length :]) for row in rows]
    lengths = list(map(len, suffixes))
    cache = prefix.cache_for(len(rows), kept=cached)
    own = right_aligned(lengths)
    present = torch.cat([own.new_ones(len(rows), prefix.length), own], 1)
    if not own.all():
        masks = {
            "attention_mask": present,
            # A padded column may stand anywhere: nothing attends to it.
            "position_ids": prefix.length + (own.cumsum(1) - 1).clamp_min(0),
        }
    else:
        masks = {}
    width = max(lengths)
    ids = torch.tensor([suffix[:1] * (width - len(suffix)) + suffix for suffix in suffixes])
    ids = ids.to(input_device(model))
    with assignment.around(cache, rows, lengths):
        logits = model(
            ids,
            past_key_values=cache,
            logits_to_keep=_last(keep, ids),
            **{name: mask.to(ids.device) for name, mask in masks.items()},
        ).logits[:, -keep:]
    if checked:
        require_numbers(logits)
    return Group(tuple(rows), logits, cache if cached else None, present)


def last_logits(model: PreTrainedModel, ids: Tensor, keep: int = 1) -> Tensor:
    """Logits [row, keep, vocabulary] at the end of sequences of equal length, ids [row, token]; no cache."""
    wanted = {
        "attention_mask": torch.ones_like(ids),
        "use_cache": False,
        "logits_to_keep": _last(keep, ids),
    }
    output = model(ids, **{name: value for name, value in wanted.items() if accepts(model, name)})
    logits: Tensor = output.logits
    return logits[:, -keep:]


def _last(count: int, ids: Tensor) -> list[int]:
    """Which tokens' logits are wanted: the last `count` of ids [row, token].

    Indices and no number, for two reasons. The number 1 lets some (gemma4) run their later layers for the
    last token alone, and whoever listens to those layers wants all tokens. And a number takes a view of the
    hidden states, which PyTorch multiplies with the vocabulary row by row, at a tenth of the speed.
    A list and no tensor: the hidden states may lie on another device than the ids, and accelerate takes a
    tensor to the first one.
    """
    return list(range(ids.shape[1] - count, ids.shape[1]))


@torch.inference_mode()
def run_all(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    limit: int,
    assignment: Assignment = ALONE,
    *,
    checked: bool = True,
) -> Iterator[Group]:
    """Run all prompts in groups of at most `limit`, longest first; their caches are not kept.

    checked: see `run_group`.
    """
    if not prompts:
        return
    prefix = run_prefix(model, prompts[0][: common_prefix_length(prompts)], assignment)
    slack = padding_slack(model, prompts, prefix)
    for rows in length_groups(prompts, range(len(prompts)), limit, slack):
        yield run_group(
            model, prompts, rows, prefix, assignment=assignment, cached=False, checked=checked
        )


@torch.inference_mode()
def first_token_logits(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    limit: int,
    assignment: Assignment = ALONE,
) -> Tensor:
    """Logits of the first answer token: [prompt, vocabulary], in the model's data type, on the host.

    Raises TrialError if a logit is not a number.
    """
    result: Tensor | None = None
    for group in run_all(model, prompts, limit, assignment, checked=False):
        last = require_numbers(group.logits[:, -1].cpu())
        if result is None:
            result = last.new_empty(len(prompts), last.shape[-1])
        result[list(group.rows)] = last
    if result is None:
        raise ValueError("no prompts")
    return result


def require_numbers(logits: Tensor) -> Tensor:
    """`logits` if all of them are finite; raises TrialError otherwise."""
    if not torch.isfinite(logits).all():
        raise TrialError(NO_NUMBERS)
    return logits
