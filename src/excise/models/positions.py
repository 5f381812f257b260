"""Limits of a model: the length of its table of positions, and its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel

from excise.anatomy.roles import TOWERS
from excise.errors import ModelError

_TABLE = re.compile(
    r"(.+\.)?(wpe|embed_positions|position_embeddings|positions_embed|pos_encoding)(\.weight)?"
)
"""Names of parameters and buffers with a row for each position."""
_DECLARED = {"mpt": "max_seq_len", "reformer": "max_position_embeddings"}
"""Model types that compute their table of positions: the name of its length in the configuration."""
_LENGTHS = ("max_position_embeddings", "n_positions", "max_target_positions")


def position_limit(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model can run; None for a model without a table of positions.

    A table may begin with unused rows, which the configuration does not count. RoBERTa and similar models
    count positions from the padding token's id on.
    """
    config = model.config.get_text_config(decoder=True)
    if config.model_type in _DECLARED:
        return int(getattr(config, _DECLARED[config.model_type]))
    limits: list[int] = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not _TABLE.fullmatch(name) or tensor.dim() != 2 or TOWERS.fullmatch(name):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        rows = tensor.shape[0]
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            rows -= module.padding_idx + 1
        declared = (getattr(config, length, None) for length in _LENGTHS)
        limits.append(min([rows, *(length for length in declared if isinstance(length, int))]))
    return min(limits, default=None)


def require_known(model: PreTrainedModel, tokens: Iterable[int]) -> None:
    """Raise ModelError if token ids are not in the model's vocabulary."""
    count = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    largest = max(tokens, default=0)
    if isinstance(count, int) and largest >= count:
        raise ModelError(
            f"the tokenizer gives token {largest}, but the model has {count} tokens: tokenizer and model do "
            "not belong together"
        )


def require_position(model: PreTrainedModel, tokens: int) -> int | None:
    """How many tokens can follow `tokens`; None for any number. Raises ModelError if there is no room."""
    limit = position_limit(model)
    if limit is None:
        return None
    # The last token of an answer is not run through the model.
    room = limit - tokens + 1
    if room < 1:
        raise ModelError(
            f"the conversation has {tokens} tokens, but the model has a table of {limit} positions; begin a "
            "new one"
        )
    return room


def within_positions(model: PreTrainedModel, prompts: Sequence[Sequence[int]], most: int) -> int:
    """The longest answer, from 1 to `most` tokens, that fits after every prompt."""
    limit = position_limit(model)
    if limit is None:
        return most
    return max(1, min(most, limit - max(map(len, prompts))))


def require_positions(model: PreTrainedModel, longest: int, max_new_tokens: int) -> None:
    """Raise ModelError if a prompt of `longest` tokens and its answer exceed the table of positions."""
    limit = position_limit(model)
    if limit is None or longest + max_new_tokens <= limit:
        return
    mend = f"leave out prompts of {limit} tokens and more"
    if (room := limit - longest) > 0:
        mend = f"give max_new_tokens (--max-new-tokens {room}) or less"
    raise ModelError(
        f"the longest prompt has {longest} tokens and its answer up to {max_new_tokens}, but the model has "
        f"a table of {limit} positions; {mend}"
    )
