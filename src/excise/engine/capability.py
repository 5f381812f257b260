"""For which models the fast path is exact, decided from the model's class and configuration.

The fast path ("slots") runs the common prefix once, pads behind it, and decodes in a SlotCache. It is exact
if a model keeps only attention keys and values of earlier tokens, one column for each token, and takes masks
and positions as arguments. Every other model takes the plain path.
"""

from __future__ import annotations

import inspect

from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from excise.undocumented import keeps_state

_NEEDED = ("past_key_values", "position_ids", "attention_mask", "logits_to_keep")

_POSITIONS_FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Model types that count positions from the padding token's id on. `generate` gives them positions that
count from 0, so that its answers differ from those of the model's own forward pass."""

_CACHE_INEXACT = ("cpmant",)
"""Model types whose answers from the cache differ from those of the forward pass (measured)."""

_CAUSAL_DESPITE_CONFIGURATION = ("gpt_neox", "gpt_neox_japanese")
"""Causal model types whose configuration says `is_decoder = False`."""

_LAYERS_WITHOUT_KEYS = ("mllama_text_model",)
"""Model types with cross-attention layers that store keys only if the prompt has an image."""

_POSITIONS_FROM_ONE = ("paligemma",)
"""Types of multimodal models that number their tokens from 1 on; other models begin with 0."""

_ONE_ROW_AT_A_TIME = ("rwkv",)
"""Model types that mix rows when they decode from their state (rwkv broadcasts it over the batch)."""


def accepts(model: PreTrainedModel, name: str) -> bool:
    """True if the model's forward pass has an argument `name`."""
    # The forward of the class: accelerate puts a wrapper on the instance.
    return name in inspect.signature(type(model).forward).parameters


def decodes_from_cache(model: PreTrainedModel) -> bool:
    """True if decoding from the cache of `generate` gives the answers of whole forward passes."""
    text = model.config.get_text_config(decoder=True)
    if text.model_type in _POSITIONS_FROM_PADDING + _CACHE_INEXACT:
        return False
    if text.model_type in _CAUSAL_DESPITE_CONFIGURATION:
        return True
    # Attention of encoders looks both ways, so that a cache is not exact. Some can be configured as decoders.
    return getattr(text, "is_decoder", True) is not False


def decodes_batches(model: PreTrainedModel) -> bool:
    """True if `generate` gives each row of a batch the answer that the row gets alone."""
    return model.config.get_text_config(decoder=True).model_type not in _ONE_ROW_AT_A_TIME


def slots_are_exact(model: PreTrainedModel) -> bool:
    """True if the fast path gives this model the logits of one unpadded row at a time."""
    if not type(model).__module__.startswith("transformers."):
        # Remote code may keep other state between calls.
        return False
    if model.config.model_type in _POSITIONS_FROM_ONE:
        return False
    if keeps_state(model) or not decodes_from_cache(model):
        return False
    if model.config.get_text_config(decoder=True).model_type in _LAYERS_WITHOUT_KEYS:
        return False
    return all(accepts(model, name) for name in _NEEDED) and _keeps_keys_and_values(model)


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """True if the cache for the model's configuration has attention layers only."""
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        # The configuration does not describe what its layers store.
        return False
    text = model.config.get_text_config(decoder=True)
    # Exactly these types: subclasses store more.
    return len(layers) == text.num_hidden_layers and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )
