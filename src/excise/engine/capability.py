"""Which models the fast path is exact for, told from what they declare.

The fast path ("slots") runs a common beginning once, pads behind it, and decodes in a SlotCache. That is
exact where all that a model keeps of earlier tokens is attention keys and values, one column a token,
and where masks and positions may be given from outside. Every other model takes the plain path.
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
count from 0, so that its answers are not those of the model's own forward pass."""


_CACHE_INEXACT = ("cpmant",)
"""Model types whose answers from the cache were measured not to be those of the forward pass."""

_CAUSAL_WHATEVER_THEY_SAY = ("gpt_neox", "gpt_neox_japanese")
"""Model types whose configuration says `is_decoder = False` and that look back only all the same."""

_LAYERS_WITHOUT_KEYS = ("mllama_text_model",)
"""Model types with layers that keep nothing while they have no image to look at."""

_POSITIONS_FROM_ONE = ("paligemma",)
"""Types of whole models, towers included, that number their tokens from 1 on where nobody else does."""

_ONE_ROW_AT_A_TIME = ("rwkv",)
"""Model types that mix up rows when they decode from their state (rwkv broadcasts it over the batch)."""


def accepts(model: PreTrainedModel, name: str) -> bool:
    """True if the model's forward pass has an argument of that name."""
    # The class's own: accelerate puts a wrapper on the instance.
    return name in inspect.signature(type(model).forward).parameters


def decodes_from_cache(model: PreTrainedModel) -> bool:
    """True if the cache that `generate` keeps gives the answers that the forward pass alone gives."""
    text = model.config.get_text_config(decoder=True)
    if text.model_type in _POSITIONS_FROM_PADDING + _CACHE_INEXACT:
        return False
    if text.model_type in _CAUSAL_WHATEVER_THEY_SAY:
        return True
    # Encoders, unless they were told to be decoders, look both ways: nothing can be kept.
    return getattr(text, "is_decoder", True) is not False


def decodes_batches(model: PreTrainedModel) -> bool:
    """True if `generate` gives the rows of a batch the answers that they get alone."""
    return model.config.get_text_config(decoder=True).model_type not in _ONE_ROW_AT_A_TIME


def slots_are_exact(model: PreTrainedModel) -> bool:
    """True if the fast path gives this model the logits that one unpadded row at a time gives it."""
    if not type(model).__module__.startswith("transformers."):
        # Code from elsewhere may keep anything between calls.
        return False
    if model.config.model_type in _POSITIONS_FROM_ONE:
        return False
    if keeps_state(model) or not decodes_from_cache(model):
        return False
    if model.config.get_text_config(decoder=True).model_type in _LAYERS_WITHOUT_KEYS:
        return False
    return all(accepts(model, name) for name in _NEEDED) and _keeps_keys_and_values(model)


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """True if the cache made for the model's configuration is of attention layers only."""
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        # The configuration does not say what its layers keep.
        return False
    text = model.config.get_text_config(decoder=True)
    # Exactly these types: what derives from them keeps more.
    return len(layers) == text.num_hidden_layers and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )
