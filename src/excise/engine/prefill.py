"""Forward passes over many prompts: the common prefix runs once, and padding is rare.

A chat template gives all prompts the same first tokens, the common prefix. The prefix runs once and all
prompts share its cache. The rest of the prompts runs in groups of equal or almost equal length. Models for
which this is not exact take the plain path: whole prompts, groups of equal length, no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from excise.devices.memory import input_device
from excise.devices.transfers import as_float64, on_host
from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.capability import accepts, slots_are_exact
from excise.errors import TrialError

Tokens = Sequence[int]

NOT_FINITE = "logits are not numbers (NaN or infinite)"


@dataclass(frozen=True)
class Group:
    """Prompts that ran together.

    rows: their indices. logits: [row, token, vocabulary] at the last prompt tokens. cache: keys and values of
    the prefix, then padding, then the rest of each prompt; decoding continues from it. It is None on the
    plain path, and if the caller did not ask for it. present: [row, column] bool, False where the cache
    holds padding.
    """

    rows: tuple[int, ...]
    logits: Tensor
    cache: DynamicCache | None
    present: Tensor | None


class _TransientLayer(DynamicLayer):  # type: ignore[misc]
    """Holds keys and values of the prefix. Those of a pass are appended for the pass, but not stored."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix, then of the pass."""
        if not self.is_initialized:
            return key_states, value_states
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with: their number, and their keys and values in one row.

    cache: None for an empty prefix.
    """

    length: int
    cache: DynamicCache | None

    def cache_for(self, rows: int, *, kept: bool) -> DynamicCache:
        """A new cache for `rows` prompts that begins with the prefix.

        kept: whether the cache stores the keys and values of the passes that follow. If not, those of one
        layer at a time are in memory.
        """
        cache = DynamicCache()
        cache.layer_class_to_replicate = DynamicLayer if kept else _TransientLayer
        for layer in () if self.cache is None else self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            own = cache.layer_class_to_replicate()
            own.lazy_initialization(layer.keys, layer.values)
            # Views: an update concatenates, and only then takes memory for each row.
            own.keys, own.values = (
                states.expand(rows, -1, -1, -1) for states in (layer.keys, layer.values)
            )
            cache.layers.append(own)
        return cache


def common_prefix_length(prompts: Sequence[Tokens]) -> int:
    """How many first tokens all `prompts` share; at least one token of each prompt is left over."""
    # In dictionary order, tokens that the first and the last prompt share are shared by all between them.
    pairs = zip(min(map(list, prompts)), max(map(list, prompts)), strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(shared, min(map(len, prompts)) - 1)


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
    """Tokens of padding that a prompt may get, so that groups are larger: a quarter of the longest suffix.

    The slack is 0 without a common prefix, because padding would have no token to attend to. It is 0 if
    attention reaches less far than the longest prompt, because padding would fill part of the window.
    """
    longest = max(len(prompt) for prompt in prompts)
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in _WINDOWS]
    if prefix.length == 0 or any(isinstance(width, int) and width < longest for width in windows):
        return 0
    return (longest - prefix.length) // 4


def right_aligned(lengths: Sequence[int]) -> Tensor:
    """Which columns [row, column] hold own tokens, if rows of these lengths end in the same column."""
    padding = max(lengths) - torch.tensor(lengths).unsqueeze(1)
    return torch.arange(max(lengths)) >= padding


def run_prefix(
    model: PreTrainedModel, tokens: Tokens, assignment: Assignment = ONE_CANDIDATE
) -> Prefix:
    """Run the common prefix of all prompts; an empty prefix if the model cannot share it."""
    if not tokens or not slots_are_exact(model):
        return Prefix(0, None)
    cache = DynamicCache()
    ids = torch.tensor([list(tokens)], device=input_device(model))
    assignment.before_pass(1)
    with assignment.around(cache, None, [len(tokens)]):
        model(ids, past_key_values=cache, logits_to_keep=_last(1, ids))
    return Prefix(len(tokens), cache)


@dataclass(frozen=True)
class Prefill:
    """Prompts of one candidate whose common prefix has run.

    slack: tokens by which lengths in a group may differ, see `padding_slack`.
    """

    model: PreTrainedModel
    prompts: Sequence[Tokens]
    prefix: Prefix
    slack: int
    assignment: Assignment = ONE_CANDIDATE

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        prompts: Sequence[Tokens],
        assignment: Assignment = ONE_CANDIDATE,
        beginnings: Sequence[Tokens] | None = None,
    ) -> Prefill:
        """Run the common prefix of `prompts`, or of their `beginnings` if only those may be shared."""
        sharing = prompts if beginnings is None else beginnings
        prefix = run_prefix(model, sharing[0][: common_prefix_length(sharing)], assignment)
        return cls(model, prompts, prefix, padding_slack(model, prompts, prefix), assignment)

    def groups(self, limit: int, rows: Sequence[int] | None = None) -> list[tuple[int, ...]]:
        """`rows`, by default all, in groups that may run together, of at most `limit`, longest first."""
        rows = range(len(self.prompts)) if rows is None else rows
        return length_groups(self.prompts, rows, limit, self.slack)

    def run(
        self, rows: Sequence[int], keep: int = 1, *, cached: bool = True, checked: bool = True
    ) -> Group:
        """Run the rest of each prompt, after the prefix; padding is between prefix and shorter rests.

        keep: number of last tokens of each prompt whose logits are returned, at most as many as the shortest
        prompt has after the prefix. cached: whether to return keys and values, which take as much memory as
        slots for the rows. checked: whether to wait for the logits and raise TrialError if they are not
        finite.
        """
        self.assignment.before_pass(len(rows))
        if slots_are_exact(self.model):
            logits, cache, present = self._run_suffixes(rows, keep, cached=cached)
        else:
            whole = [list(self.prompts[row]) for row in rows]
            ids = torch.tensor(whole, device=input_device(self.model))
            logits, cache, present = last_logits(self.model, ids, keep), None, None
        if checked:
            require_finite(logits)
        return Group(tuple(rows), logits, cache, present)

    def _run_suffixes(
        self, rows: Sequence[int], keep: int, *, cached: bool
    ) -> tuple[Tensor, DynamicCache | None, Tensor]:
        shared = self.prefix.length
        suffixes = [list(self.prompts[row][shared:]) for row in rows]
        lengths = list(map(len, suffixes))
        cache = self.prefix.cache_for(len(rows), kept=cached)
        own = right_aligned(lengths)
        present = torch.cat([own.new_ones(len(rows), shared), own], 1)
        masks: dict[str, Tensor] = {}
        if not own.all():
            masks["attention_mask"] = present
            # The position of a padded column does not matter: no token attends to it.
            masks["position_ids"] = shared + (own.cumsum(1) - 1).clamp_min(0)
        width = max(lengths)
        ids = torch.tensor([suffix[:1] * (width - len(suffix)) + suffix for suffix in suffixes])
        ids = ids.to(input_device(self.model))
        with self.assignment.around(cache, rows, lengths):
            logits: Tensor = self.model(
                ids,
                past_key_values=cache,
                logits_to_keep=_last(keep, ids),
                **{name: mask.to(ids.device) for name, mask in masks.items()},
            ).logits
        return logits[:, -keep:], cache if cached else None, present


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
    """Indices of the last `count` tokens of ids [row, token], for `logits_to_keep`.

    Indices and not the number `count`, for two reasons. With the number 1 some models (gemma4) run their
    later layers for the last token alone, but hooks on those layers need all tokens. With a number PyTorch
    takes a view of the hidden states and multiplies it with the vocabulary row by row, at a tenth of the
    speed. A list and not a tensor: the hidden states may lie on another device than the ids, and accelerate
    moves a tensor to the first device.
    """
    return list(range(ids.shape[1] - count, ids.shape[1]))


@torch.inference_mode()
def first_token_logits(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    limit: int,
    assignment: Assignment = ONE_CANDIDATE,
) -> Tensor:
    """Logits of the first answer token: [prompt, vocabulary], in the model's data type, on the host.

    Raises TrialError if a logit is not finite.
    """
    prefill, found = Prefill.start(model, prompts, assignment), dict[int, Tensor]()
    for rows in prefill.groups(limit):
        last = prefill.run(rows, cached=False, checked=False).logits[:, -1].cpu()
        found.update(zip(rows, require_finite(last), strict=True))
    return torch.stack([found[row] for row in range(len(prompts))])


def require_finite(logits: Tensor) -> Tensor:
    """`logits` if all of them are finite; raises TrialError otherwise."""
    if not torch.isfinite(logits).all():
        raise TrialError(NOT_FINITE)
    return logits


def gather_finite(values: Sequence[Tensor], finite: Sequence[Tensor]) -> list[Tensor]:
    """`values`, float64, on the host: by one copy, if all lie on one device.

    finite: the result of `all_finite` for each group that ran unchecked. Raises TrialError if one is False.
    """
    *found, checks = on_host([*values, as_float64(torch.stack(list(finite)).to(torch.float32))])
    if not checks.all():
        raise TrialError(NOT_FINITE)
    return found


def all_finite(logits: Tensor) -> Tensor:
    """Whether all of `logits` are finite: one bool on their device, which the host does not wait for."""
    return torch.isfinite(logits).all()
