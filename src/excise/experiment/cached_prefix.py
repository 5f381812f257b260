"""Cached layers of the search prompts: which layers to cache within the memory budget."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy
from excise.engine.batch_size import key_value_bytes
from excise.engine.cached_layers import CachedLayers, CachedPart, start_layers_within
from excise.engine.capability import slots_are_exact
from excise.engine.prefill import Tokens, common_prefix_length
from excise.models.weights import stored_bytes

_SHARE, _LEAST = 0.05, 64 * 2**20
"""Share of the model's size that stored states may take, and bytes that they may always take."""


def room_for_cached_layers(
    model: PreTrainedModel, anatomy: Anatomy, target: Sequence[Tokens], control: Sequence[Tokens]
) -> CachedPart | None:
    """Empty caches for both sets; None if the model needs whole passes or no start layer fits."""
    if not slots_are_exact(model):
        return None
    start_layers = start_layers_within(
        max(_SHARE * stored_bytes(model), _LEAST),
        len(anatomy.layers),
        (_own_tokens(target), _own_tokens(control)),
        anatomy.dimension,
        key_value_bytes(model, [[0]], 0) // len(anatomy.layers),
        model.dtype.itemsize,
    )
    if not start_layers:
        return None
    return CachedPart(
        CachedLayers(model, anatomy.layers, start_layers, with_keys=True),
        CachedLayers(model, anatomy.layers, start_layers, with_keys=False),
        {writer.name: writer.layer for writer in anatomy.writers},
    )


def _own_tokens(prompts: Sequence[Tokens]) -> int:
    return sum(map(len, prompts)) - len(prompts) * common_prefix_length(prompts)
